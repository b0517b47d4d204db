import { execFile } from 'node:child_process';
import { copyFile, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { cached } from './cache.ts';

const execute = promisify(execFile);

/**
 * Prometheus' own checker of rules, out of Debian's package `prometheus`. The package is unpacked into `.cache/` and not
 * installed, which would start a server.
 */
export async function promtool(args: readonly string[]): Promise<string> {
  const program = join(await cached('prometheus', unpackPrometheus), 'promtool');
  const { stdout } = await execute(program, args);
  return stdout;
}

async function unpackPrometheus(target: string): Promise<void> {
  const work = await mkdtemp(join(tmpdir(), 'kiln-prometheus-'));
  try {
    await execute('apt-get', ['download', '-qq', 'prometheus'], { cwd: work });
    const [file] = await readdir(work);
    if (file === undefined) throw new Error('apt-get download left no file');
    await execute('dpkg-deb', ['--extract', file, 'unpacked'], { cwd: work });
    await mkdir(target);
    await copyFile(join(work, 'unpacked/usr/bin/promtool'), join(target, 'promtool'));
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}
