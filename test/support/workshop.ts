import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { mount, unmount } from '../../src/os/index.ts';
import { busyboxLayer, pushTestImage } from './images.ts';
import { type Ended, kiln, type RunOptions, temporaryDirectory, writeFiles } from './programs.ts';
import { startRegistry, type TestRegistry } from './registry.ts';

/** A registry with a small base image, and directories to build in. */
export interface Workshop extends AsyncDisposable {
  readonly registry: TestRegistry;
  readonly directory: string;
  /** A busybox image. */
  readonly base: string;
  /** A volume shared by the builds of this workshop. */
  readonly volume: string;
  /** A new context directory with these files; `%BASE%` in them is the base image. */
  context(files: Readonly<Record<string, string>>): Promise<string>;
  /** A name that no other test uses. */
  unique(prefix: string): string;
  /** `executor --context … --log-format json` on the volume. */
  build(context: string, args: readonly string[], options?: RunOptions): Promise<Ended>;
}

/** @param options `inMemory`: whether the directory lies in memory, for tests that write much. */
export async function openWorkshop(options: { readonly inMemory?: boolean } = {}): Promise<Workshop> {
  const registry = await startRegistry();
  const scratch = await temporaryDirectory();
  if (options.inMemory === true) mount('tmpfs', scratch.path, 'tmpfs', 0, 'size=8g');
  const base = `${registry.host}/busybox:1`;
  const volume = join(scratch.path, 'volume');
  await pushTestImage(scratch.path, base, { layers: [await busyboxLayer(scratch.path)] });
  const unique = (prefix: string): string => `${prefix}-${randomBytes(5).toString('hex')}`;
  return {
    registry,
    directory: scratch.path,
    base,
    volume,
    unique,
    context: (files) => {
      const filled = Object.entries(files).map(
        ([name, text]) => [name, text.replaceAll('%BASE%', base)] as const,
      );
      return writeFiles(join(scratch.path, unique('context')), Object.fromEntries(filled));
    },
    build: (context, args, options) =>
      kiln(
        'executor',
        ['--context', context, '--cache-dir', volume, '--log-format', 'json', ...args],
        options,
      ),
    [Symbol.asyncDispose]: async () => {
      await registry[Symbol.asyncDispose]();
      if (options.inMemory === true) unmount(scratch.path, { detach: true });
      await scratch[Symbol.asyncDispose]();
    },
  };
}
