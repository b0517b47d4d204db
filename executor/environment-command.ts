import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { defaultCacheDirectory } from '../src/cli/index.ts';
import { formatBytes } from '../src/support/index.ts';
import { type Environment, readEnvironment, type SpaceReport } from './environment.ts';

/** Flags of `executor check --environment`. */
export interface EnvironmentFlags {
  readonly cacheDir?: string;
  readonly scratchDir?: string;
  readonly output: 'text' | 'json';
}

/**
 * Tells how builds would run here, and what would have them run better.
 *
 * @throws EnvironmentError `E_ISOLATION_NONE` after all is told, when no step can run here.
 */
export async function checkEnvironment(flags: EnvironmentFlags): Promise<void> {
  const { environment, failure } = await readEnvironment({
    cacheDirectory: resolve(flags.cacheDir ?? defaultCacheDirectory(existsSync)),
    scratchDirectory: flags.scratchDir === undefined ? undefined : resolve(flags.scratchDir),
  });
  process.stdout.write(
    flags.output === 'json' ? `${JSON.stringify(environment, undefined, 2)}\n` : textOf(environment),
  );
  if (failure !== undefined) throw failure;
}

const backendNames = { overlay: 'overlay', inplace: 'in place', none: 'none' } as const;

function textOf(environment: Environment): string {
  const rows = rowsOf(environment);
  const width = Math.max(...rows.map(([name]) => name.length)) + 3;
  return rows.map(([name, value]) => `${name.padEnd(width)}${value}\n`).join('');
}

function rowsOf(environment: Environment): [name: string, value: string][] {
  const { backend, seccomp, missingCapabilities, volume } = environment;
  const rows: [string, string][] = [['backend', `${backendNames[backend.chosen]}: ${backend.reason}`]];
  const { better } = backend;
  if (better !== null) {
    rows.push(['for overlay', better.remedy ?? better.reason]);
    for (const line of better.pod) rows.push(['', line]);
  }
  rows.push(['in place', backend.inplace ?? 'possible']);
  rows.push(['user', environment.user], ['capabilities', environment.capabilities.join(', ') || 'none']);
  if (missingCapabilities.length > 0)
    rows.push(['steps lack', `${missingCapabilities.join(', ')} (securityContext.capabilities.add)`]);
  rows.push(
    ['seccomp', `${seccomp.mode}${seccomp.refusesMount ? ', which refuses mount(2)' : ''}`],
    ['security label', environment.securityLabel ?? 'none'],
    ['user namespace', environment.userNamespace === null ? 'none' : `ids ${environment.userNamespace}`],
    ['kernel', environment.kernel],
    ['scratch', spaceText(environment.scratch)],
    [
      'volume',
      volume.space === null
        ? `${volume.directory}: ${volume.mode}`
        : `${spaceText(volume.space)}, ${volume.mode}`,
    ],
  );
  if (volume.problem !== null) rows.push(['', volume.problem]);
  return rows;
}

function spaceText({ directory, fileSystem, freeBytes, freeInodes }: SpaceReport): string {
  const inodes = freeInodes === null ? '' : `, ${freeInodes} inodes`;
  return `${directory}: ${fileSystem}, ${formatBytes(freeBytes)}${inodes} free`;
}
