import { parseReference } from '../../oci/index.ts';
import { UsageError } from '../../support/index.ts';

/** Where images of another registry are kept too. */
export interface Mirror {
  /** Host and port, as credentials and certificates are looked up by. */
  readonly registry: string;
  /** Put before the repository's name, with `/` at its end; empty for none. */
  readonly prefix: string;
  /** How it is spoken to, when that was said. */
  readonly scheme: 'https' | 'http' | undefined;
}

/**
 * Parses `[http[s]://]host[:port][/path]`.
 *
 * @throws UsageError `E_MIRROR_INVALID`.
 */
export function parseMirror(text: string): Mirror {
  const match = /^(?:(https?):\/\/)?([^/]+)(?:\/(.*))?$/.exec(text.trim());
  const [, scheme, host = '', path = ''] = match ?? [];
  const prefix = path.replace(/\/+$/, '');
  if (!isHost(host) || (prefix !== '' && !isRepository(prefix)))
    throw new UsageError(`"${text}" is not a registry that images can be asked for from`, {
      code: 'E_MIRROR_INVALID',
      remedy: 'Write it as mirror.example, mirror.example:5000 or mirror.example/path.',
    });
  return {
    registry: host === 'index.docker.io' ? 'docker.io' : host.toLowerCase(),
    prefix: prefix === '' ? '' : `${prefix}/`,
    scheme: scheme as Mirror['scheme'],
  };
}

function isHost(text: string): boolean {
  const url = `https://${text}/`;
  return !/[@?#\s]|:$/.test(text) && URL.canParse(url) && new URL(url).pathname === '/';
}

function isRepository(text: string): boolean {
  try {
    return parseReference(`registry.invalid/${text}`).repository === text;
  } catch (error) {
    if (error instanceof UsageError) return false;
    throw error;
  }
}
