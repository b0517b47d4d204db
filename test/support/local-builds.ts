import { join } from 'node:path';
import { inspectManifest, unpackLayout } from './check-image.ts';
import { type Ended, kiln, type RunOptions, temporaryDirectory, writeFiles } from './programs.ts';
import { listTree } from './trees.ts';

/** Builds without a registry: into OCI layouts, with the layer cache on a volume. */
export interface LocalBuilds extends AsyncDisposable {
  readonly directory: string;
  /** A new context with these files. */
  context(files: Readonly<Record<string, string>>): Promise<string>;
  /** Builds a Dockerfile in a context, by default a new one that is otherwise empty. */
  build(dockerfile: string, options?: LocalBuildOptions): Promise<LocalBuild>;
}

export interface LocalBuildOptions extends RunOptions {
  readonly context?: string;
  readonly args?: readonly string[];
  /** By default one for all builds. */
  readonly volume?: string;
}

export interface LocalBuild extends Ended {
  /** The root file system as umoci unpacks the image. */
  root(): string;
  /** The manifest of its image, as skopeo reads it. */
  manifest(): { readonly layers: readonly unknown[] };
  /** Its paths, as {@link listTree} tells them. */
  tree(format?: string): string[];
}

export async function openLocalBuilds(): Promise<LocalBuilds> {
  const scratch = await temporaryDirectory();
  const directory = scratch.path;
  let count = 0;
  const context = (files: Readonly<Record<string, string>>): Promise<string> =>
    writeFiles(join(directory, `context-${count++}`), files);
  return {
    directory,
    context,
    build: async (dockerfile, options = {}) => {
      const { args = [], volume = join(directory, 'volume'), ...run } = options;
      const layout = join(directory, `layout-${count++}`);
      const { context: given = await context({ '.keep': '' }) } = options;
      const file = join(
        await writeFiles(join(directory, `dockerfile-${count++}`), { Dockerfile: dockerfile }),
        'Dockerfile',
      );
      const ended = await kiln(
        'executor',
        [
          ...['--context', given, '--dockerfile', file, '--cache-dir', volume, '--log-format', 'json'],
          ...['--oci-layout-path', layout, '--cache-repo', `oci:${volume}/layer-cache`, '--cache', ...args],
        ],
        run,
      );
      const root = (): string => join(unpackLayout(directory, `${layout}:latest`), 'rootfs');
      const manifest = (): { layers: unknown[] } => inspectManifest(`${layout}:latest`, 'oci:');
      return { ...ended, root, manifest, tree: (format) => listTree(root(), format) };
    },
    [Symbol.asyncDispose]: () => scratch[Symbol.asyncDispose](),
  };
}
