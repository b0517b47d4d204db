import { closeSync, existsSync, openSync } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { tryLock } from '../../src/os/index.ts';

const cacheDirectory = join(import.meta.dirname, '../../.cache');

/**
 * A file or directory that takes long to make, kept in `.cache/`. Several test processes may ask for it at once; one
 * makes it, under another name, and the others wait.
 */
export async function cached(name: string, make: (target: string) => Promise<void>): Promise<string> {
  const target = join(cacheDirectory, name);
  if (existsSync(target)) return target;
  await mkdir(cacheDirectory, { recursive: true });
  const lock = openSync(join(cacheDirectory, `${name}.lock`), 'w');
  try {
    while (!tryLock(lock, 'exclusive')) await sleep(200);
    if (existsSync(target)) return target;
    const temporary = `${target}.${process.pid}`;
    try {
      await make(temporary);
      await rename(temporary, target);
    } finally {
      await rm(temporary, { recursive: true, force: true });
    }
    return target;
  } finally {
    closeSync(lock);
  }
}
