import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { asArguments, pushFlags, registryFlags } from '../../src/cli/index.ts';
import { type CacheKey, keyOfTag, keyTag } from '../../src/layercache/index.ts';
import { nodeCommand } from '../../src/os/index.ts';
import { EnvironmentError, messageOf, UsageError } from '../../src/support/index.ts';
import type { RemoteFlags } from './flags.ts';
import type { KeepFlags } from './prune-flags.ts';

/**
 * The keys that builds can hit today: those of Dockerfiles, which the executor works out from their context, and those
 * that were worked out elsewhere. Undefined when nothing was named.
 *
 * @throws UsageError, EnvironmentError; a Dockerfile that cannot be worked out must not be as if it was not named.
 */
export async function keptKeys(
  flags: RemoteFlags & KeepFlags,
  signal: AbortSignal,
): Promise<ReadonlySet<CacheKey> | undefined> {
  if (flags.keepDockerfile.length === 0 && flags.keepKeys.length === 0) {
    if (flags.context === undefined) return undefined;
    throw new UsageError('--context is given without --keep-dockerfile', {
      remedy: 'Name the Dockerfile whose entries are to be kept.',
    });
  }
  const keys = new Set<CacheKey>();
  for (const path of flags.keepKeys) {
    const document = await readFile(path, 'utf8').catch((cause: unknown) => {
      throw new UsageError(`--keep-keys ${path} cannot be read`, { cause });
    });
    for (const key of keysOf(document, path)) keys.add(key);
  }
  for (const dockerfile of flags.keepDockerfile)
    for (const key of keysOf(await explain(dockerfile, flags, signal), dockerfile)) keys.add(key);
  return keys;
}

/** What `executor explain` says of a Dockerfile. The two programs share no code but src/, and so one runs the other. */
async function explain(
  dockerfile: string,
  flags: RemoteFlags & KeepFlags,
  signal: AbortSignal,
): Promise<string> {
  const args = [
    'explain',
    ...['--dockerfile', dockerfile, '--context', flags.context ?? '.', '--all-stages', '--output', 'json'],
    ...['--cache-repo', flags.cacheRepo ?? ''],
    ...flags.buildArg.flatMap((value) => ['--build-arg', value]),
    ...asArguments([...registryFlags(), ...pushFlags()], { ...flags }),
  ];
  const command = nodeCommand(executorProgram(), args);
  const child = spawn(command.file, command.args, { stdio: ['ignore', 'pipe', 'pipe'], signal });
  const exit = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const [output, errors, code] = await Promise.all([text(child.stdout), text(child.stderr), exit]);
  if (code === 0) return output;
  throw new EnvironmentError(`what ${dockerfile} can hit cannot be told; nothing was deleted`, {
    code: 'E_KEEP_DOCKERFILE',
    remedy: 'Mend it, or give its --context and --build-arg.',
    cause: new Error(
      errors
        .trim()
        .split('\n', 1)[0]
        ?.replace(/^error: /, '') ?? `exit code ${String(code)}`,
    ),
  });
}

function executorProgram(): string {
  const bundled = join(import.meta.dirname, 'executor.js');
  const program = existsSync(bundled) ? bundled : join(import.meta.dirname, '../../executor/main.ts');
  if (existsSync(program)) return program;
  throw new EnvironmentError(
    '--keep-dockerfile needs the executor, which is not installed beside the warmer',
    {
      code: 'E_EXECUTOR_MISSING',
      remedy: 'Run executor explain -o json where it is, and give its output with --keep-keys.',
    },
  );
}

function keysOf(document: string, where: string): CacheKey[] {
  try {
    const { keys } = JSON.parse(document) as { keys?: unknown };
    if (!Array.isArray(keys)) throw new SyntaxError('it has no list of keys');
    return keys.map((key: unknown) => {
      if (typeof key === 'string' && keyOfTag(keyTag(key as CacheKey)) !== undefined) return key as CacheKey;
      throw new SyntaxError('one of its keys is none');
    });
  } catch (cause) {
    throw new UsageError(`${where} is not what executor explain -o json writes: ${messageOf(cause)}`, {
      cause,
    });
  }
}
