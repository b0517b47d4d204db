import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { closeSync, openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { tryLock } from '../../src/os/index.ts';

const execute = promisify(execFile);
const cacheDirectory = join(import.meta.dirname, '../../.cache');

/**
 * A gzip-compressed tar of a minimal Debian root file system, made once by debootstrap and kept in `.cache/`.
 * Several test processes may ask for it at once; one makes it.
 */
export async function debianTar(): Promise<string> {
  const target = join(cacheDirectory, 'debian-bookworm.tar.gz');
  if (existsSync(target)) return target;
  await mkdir(cacheDirectory, { recursive: true });
  const lock = openSync(join(cacheDirectory, 'debian.lock'), 'w');
  try {
    while (!tryLock(lock, 'exclusive')) await sleep(200);
    if (!existsSync(target)) await makeDebianTar(target);
    return target;
  } finally {
    closeSync(lock);
  }
}

async function makeDebianTar(target: string): Promise<void> {
  const work = await mkdtemp(join(tmpdir(), 'kiln-debian-'));
  try {
    const root = join(work, 'root');
    await execute('debootstrap', ['--variant=minbase', 'bookworm', root], { maxBuffer: 1 << 26 });
    await rm(join(root, 'var/cache/apt/archives'), { recursive: true, force: true });
    await rm(join(root, 'etc/resolv.conf'), { force: true });
    const temporary = `${target}.${process.pid}`;
    await execute('tar', [
      '-C',
      root,
      '--numeric-owner',
      '--sort=name',
      '--exclude=./dev/*',
      '-czf',
      temporary,
      '.',
    ]);
    await rename(temporary, target);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}
