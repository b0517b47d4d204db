import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { busyboxLayer, type TestImage, writeTestLayout } from './images.ts';
import { buildInProcess, type InProcessBuild, type InProcessResult } from './in-process.ts';
import { temporaryDirectory, writeFiles } from './programs.ts';

/** Builds in this process, from a busybox image called `base` in an OCI layout: no registry and no other program is started. */
export interface LocalBase extends AsyncDisposable {
  readonly directory: string;
  readonly volume: string;
  /** A new context with these files. */
  context(files: Readonly<Record<string, string>>): Promise<string>;
  build(dockerfile: string, request?: Partial<InProcessBuild>): Promise<BuiltLocally>;
}

export interface BuiltLocally extends InProcessResult {
  /** What steps wrote. */
  readonly output: string;
  /** How each step ended: `cached` or `ran`. */
  readonly outcomes: readonly string[];
  /** Of each layer that is not the base's, the paths in it, as GNU tar lists them. */
  readonly layers: readonly (readonly string[])[];
}

export async function openLocalBase(image: Omit<TestImage, 'layers'> = {}): Promise<LocalBase> {
  const scratch = await temporaryDirectory();
  const directory = scratch.path;
  const base = await writeTestLayout(join(directory, 'base'), 'base', {
    ...image,
    layers: [await busyboxLayer(directory)],
  });
  const volume = join(directory, 'volume');
  let count = 0;
  const context = (files: Readonly<Record<string, string>>): Promise<string> =>
    writeFiles(join(directory, `context-${count++}`), files);
  return {
    directory,
    volume,
    context,
    build: async (dockerfile, request = {}) => {
      const built = await buildInProcess({
        dockerfile,
        place: join(directory, `build-${count++}`),
        volume,
        context: request.context ?? (await context({ '.keep': '' })),
        ...request,
        contexts: [`base=oci-layout://${base}:base`, ...(request.contexts ?? [])],
      });
      const chunks = built.events.flatMap((event) => (event.type === 'output' ? [event.data] : []));
      return {
        ...built,
        output: Buffer.concat(chunks).toString(),
        outcomes: built.events.flatMap((event) => (event.type === 'step-end' ? [event.outcome] : [])),
        layers: layersOf(built.layout.replace(/:latest$/, '')).slice(1),
      };
    },
    [Symbol.asyncDispose]: () => scratch[Symbol.asyncDispose](),
  };
}

function layersOf(layout: string): string[][] {
  const blob = (digest: string): string => join(layout, 'blobs', digest.replace(':', '/'));
  const index = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as {
    manifests: { digest: string }[];
  };
  const manifest = JSON.parse(readFileSync(blob(index.manifests[0]?.digest ?? ''), 'utf8')) as {
    layers: { digest: string }[];
  };
  return manifest.layers.map(({ digest }) =>
    execFileSync('tar', ['-tzf', blob(digest)], { encoding: 'utf8' })
      .split('\n')
      .filter((line) => line !== ''),
  );
}
