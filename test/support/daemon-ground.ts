import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { pushTestImage, randomLayer } from './images.ts';
import { temporaryDirectory } from './programs.ts';
import { startRegistry, type TestRegistry } from './registry.ts';

/** A registry, and a directory for volumes and files. */
export interface DaemonGround extends AsyncDisposable {
  readonly registry: TestRegistry;
  readonly directory: string;
  /** A path that nothing has yet. */
  path(prefix: string): string;
  /** Pushes an image with a new layer of so many random bytes. @returns its reference. */
  push(name: string, bytes?: number): Promise<string>;
  /** The digest that the registry has for a reference, by skopeo. */
  digest(reference: string): string;
  /** The digest of the image's topmost layer, by skopeo. */
  layer(reference: string): string;
}

export async function openDaemonGround(): Promise<DaemonGround> {
  const registry = await startRegistry();
  const scratch = await temporaryDirectory();
  let count = 0;
  const path = (prefix: string): string => join(scratch.path, `${prefix}-${++count}`);
  return {
    registry,
    directory: scratch.path,
    path,
    push: async (name, bytes) => {
      const reference = `${registry.host}/${name}`;
      const layers = [await randomLayer(scratch.path, name.replace(/[^a-z0-9]/g, '-'), bytes)];
      await pushTestImage(path('push'), reference, { layers });
      return reference;
    },
    digest: (reference) => inspect(reference, '{{.Digest}}'),
    layer: (reference) =>
      inspect(reference, '{{range .Layers}}{{println .}}{{end}}').split('\n').at(-1) ?? '',
    [Symbol.asyncDispose]: async () => {
      await registry[Symbol.asyncDispose]();
      await scratch[Symbol.asyncDispose]();
    },
  };
}

function inspect(reference: string, format: string): string {
  const args = ['inspect', '--tls-verify=false', '--format', format, `docker://${reference}`];
  return execFileSync('skopeo', args, { encoding: 'utf8' }).trim();
}

/** Those lines of a registry's log that are about layers or manifests. */
export function asked(log: readonly string[], method: string, part: string): string[] {
  return log.filter((line) => line.startsWith(`${method} `) && line.includes(part));
}
