import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

/** A file that the status page needs, served under a path that changes with its content. */
export interface Asset {
  readonly path: string;
  readonly content: string;
  readonly mediaType: string;
}

/** The status page's files. */
export interface Assets {
  readonly style: Asset;
  readonly script: Asset;
  readonly icon: Asset;
}

/** Reads the files; they lie beside this module, in the source and in dist/ alike. */
export function loadAssets(): Assets {
  return {
    style: load('page.css', 'text/css; charset=utf-8'),
    script: load('page.js', 'text/javascript; charset=utf-8'),
    icon: load('icon.svg', 'image/svg+xml'),
  };
}

function load(name: string, mediaType: string): Asset {
  const content = readFileSync(new URL(`./${name}`, import.meta.url), 'utf8');
  const version = createHash('sha256').update(content).digest('hex').slice(0, 12);
  return { path: `/assets/${version}/${name}`, content, mediaType };
}
