import { copyFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { build } from 'esbuild';

const root = join(import.meta.dirname, '..');

export interface BundleOptions {
  /** Source maps, whose text depends on where the directory lies. Default true. */
  readonly sourceMaps?: boolean;
}

/**
 * Bundles both programs into a directory, which is emptied first. All files lie in one directory, because a module that
 * starts a worker thread looks for the worker's file beside itself.
 *
 * @returns the files that went into them, from the project's root.
 */
export async function bundlePrograms(outdir: string, options: BundleOptions = {}): Promise<string[]> {
  await rm(outdir, { recursive: true, force: true });
  const { metafile } = await build({
    absWorkingDir: root,
    entryPoints: {
      executor: 'executor/main.ts',
      warmer: 'warmer/main.ts',
      'rootfs-worker': 'executor/isolation/rootfs-worker.ts',
      'root-worker': 'executor/isolation/inplace/root-worker.ts',
      'step-worker': 'executor/isolation/inplace/step-worker.ts',
      'step-init': 'executor/isolation/step-init.ts',
      'tree-digest-worker': 'src/layer/tree-digest-worker.ts',
      'unpack-worker': 'src/layer/unpack-worker.ts',
      'write-layer-worker': 'src/layer/write-layer-worker.ts',
    },
    outdir,
    bundle: true,
    splitting: true,
    chunkNames: 'chunk-[hash]',
    format: 'esm',
    platform: 'node',
    target: 'node24',
    // Native modules are loaded from node_modules.
    external: ['better-sqlite3', 'koffi'],
    // CommonJS packages in an ES module need a require of their own.
    banner: {
      js: "import { createRequire as kilnCreateRequire } from 'node:module'; const require = kilnCreateRequire(import.meta.url);",
    },
    minifySyntax: true,
    sourcemap: options.sourceMaps === false ? false : 'linked',
    metafile: true,
    sourcesContent: false,
    logLevel: 'warning',
  });
  // The daemon reads the status page's files from beside its own.
  for (const name of ['page.css', 'page.js', 'icon.svg'])
    await copyFile(join(root, 'warmer/daemon/page', name), join(outdir, name));
  return Object.keys(metafile.inputs);
}
