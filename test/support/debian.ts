import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { cached } from './cache.ts';

const execute = promisify(execFile);

/** A gzip-compressed tar of a minimal Debian root file system, made once by debootstrap and kept in `.cache/`. */
export function debianTar(): Promise<string> {
  return cached('debian-bookworm.tar.gz', makeDebianTar);
}

async function makeDebianTar(target: string): Promise<void> {
  const work = await mkdtemp(join(tmpdir(), 'kiln-debian-'));
  try {
    const root = join(work, 'root');
    await execute('debootstrap', ['--variant=minbase', 'bookworm', root], { maxBuffer: 1 << 26 });
    await rm(join(root, 'var/cache/apt/archives'), { recursive: true, force: true });
    await rm(join(root, 'etc/resolv.conf'), { force: true });
    await execute('tar', [
      '-C',
      root,
      '--numeric-owner',
      '--sort=name',
      '--exclude=./dev/*',
      '-czf',
      target,
      '.',
    ]);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}
