import { chmod, chown, mkdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { randomName, systemErrorCode } from '../../src/support/index.ts';
import type { MountedSource, OverlaySpace } from './messages.ts';
import type { CopySource } from './types.ts';

/** Makes the directories of one layer's work; `lowers` nearest first. */
export async function makeSpace(scratch: string, lowers: readonly string[]): Promise<OverlaySpace> {
  const directory = join(scratch, randomName('step-'));
  for (const name of ['upper', 'work', 'merged', 'source', 'empty'])
    await mkdir(join(directory, name), { recursive: true });
  const nearest = lowers[0];
  if (nearest !== undefined) {
    // The merged root shows the upper directory's own attributes.
    const { mode, uid, gid } = await stat(nearest);
    await chown(join(directory, 'upper'), uid, gid);
    await chmod(join(directory, 'upper'), mode & 0o7777);
  } else await chmod(join(directory, 'upper'), 0o755);
  const targets = lowers.length === 0 ? ['empty'] : lowers;
  await makeStubs(join(directory, 'stubs'));
  await Promise.all(
    [...targets, 'stubs'].map((target, index) => symlink(target, join(directory, String(index)))),
  );
  const files = await writeNetworkFiles(directory);
  return { directory, lowerCount: targets.length, files };
}

/**
 * Makes the lowest layer of RUN steps: the places where /proc, /dev and the like are mounted, for images that lack them.
 * Made in the upper directory instead, they would change the times of their parents, and so the layer.
 */
async function makeStubs(directory: string): Promise<void> {
  for (const name of ['proc', 'sys', 'dev', 'etc'])
    await mkdir(join(directory, name), { recursive: true, mode: 0o755 });
  for (const name of ['resolv.conf', 'hosts', 'hostname']) await writeFile(join(directory, 'etc', name), '');
}

/** Makes the files to copy from ready to be mounted by the worker. */
export async function mountedSource(space: OverlaySpace, source: CopySource): Promise<MountedSource> {
  if (source.kind === 'directory') return source;
  const layers = await source.layers.directories();
  await linkSource(space, layers);
  return { kind: 'layers', layers: layers.length === 0 ? [''] : layers };
}

/** Links a stack of layers (lowest first) into a space as `s0`…, nearest first, replacing an earlier one. */
export async function linkSource(
  space: OverlaySpace,
  layers: readonly string[],
  prefix = 's',
): Promise<number> {
  const targets = layers.length === 0 ? ['empty'] : [...layers].reverse();
  for (const [index, target] of targets.entries()) {
    const link = join(space.directory, `${prefix}${index}`);
    await rm(link, { force: true });
    await symlink(target, link);
  }
  return targets.length;
}

async function writeNetworkFiles(directory: string): Promise<string[]> {
  const hosts = '127.0.0.1\tlocalhost kiln\n::1\tlocalhost ip6-localhost ip6-loopback\n';
  const resolv = await readFile('/etc/resolv.conf', 'utf8').catch((error: unknown) => {
    if (systemErrorCode(error) === 'ENOENT') return '';
    throw error;
  });
  const contents = { 'resolv.conf': resolv, hosts, hostname: 'kiln\n' };
  await Promise.all(Object.entries(contents).map(([name, text]) => writeFile(join(directory, name), text)));
  return Object.keys(contents);
}
