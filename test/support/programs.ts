import { type ChildProcess, type ChildProcessByStdio, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import type { ProgressEvent } from '../../src/support/index.ts';

const root = join(import.meta.dirname, '../..');

/** How a program ended and what it said. */
export interface Ended {
  readonly code: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
  /** With `--log-format json`: its progress. */
  readonly events: readonly ProgressEvent[];
  /** What it printed beside its progress: errors. */
  readonly messages: string;
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly input?: string | Buffer;
  /** Standard input stays open: more of it might come. */
  readonly inputGoesOn?: boolean;
  readonly cwd?: string;
  /** A command that runs the program, as `setpriv` does, with its arguments. */
  readonly under?: readonly string[];
  /** Where the programs lie compiled, which start in a third of the time; default: from their TypeScript. */
  readonly compiled?: string | undefined;
  /** Called once the process runs. */
  readonly onStart?: (child: ChildProcess) => void;
}

/** Runs `executor` or `warmer` as a process of its own. It never sees the tester's credentials. */
export async function kiln(
  program: 'executor' | 'warmer',
  args: readonly string[],
  options: RunOptions = {},
): Promise<Ended> {
  const { compiled } = options;
  const file = compiled === undefined ? join(root, program, 'main.ts') : join(compiled, `${program}.js`);
  const command = [process.execPath, file, ...args];
  const [first = '', ...rest] = [...(options.under ?? []), ...command];
  const child = spawn(first, rest, {
    stdio: ['pipe', 'pipe', 'pipe'],
    cwd: options.cwd ?? tmpdir(),
    env: { PATH: process.env.PATH, HOME: '/nonexistent', CI: 'true', ...options.env },
  });
  child.stdin.on('error', () => undefined);
  child.stdin.write(options.input ?? '');
  if (options.inputGoesOn !== true) child.stdin.end();
  options.onStart?.(child);
  return ended(child);
}

/** Waits for a process with piped output, and collects what it said. */
export async function ended(child: ChildProcessByStdio<Writable | null, Readable, Readable>): Promise<Ended> {
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (stdout += chunk));
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk));
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve) =>
    child.once('close', (...ended) => resolve(ended)),
  );
  const lines = stderr.split('\n');
  return {
    code,
    signal,
    stdout,
    stderr,
    events: lines.flatMap((line) => (line.startsWith('{"time"') ? [JSON.parse(line) as ProgressEvent] : [])),
    messages: lines.filter((line) => line !== '' && !line.startsWith('{"time"')).join('\n'),
  };
}

/** Steps by how they ended, as the instructions were written. */
export function stepsThat(outcome: string, { events }: Ended): string[] {
  const texts = new Map(
    events.flatMap((event) => (event.type === 'step-start' ? [[event.step, event.text]] : [])),
  );
  return events.flatMap((event) =>
    event.type === 'step-end' && event.outcome === outcome ? [texts.get(event.step) ?? ''] : [],
  );
}

/** What the steps printed. */
export function outputOf({ events }: Ended): string {
  return events.map((event) => (event.type === 'output' ? String(event.data) : '')).join('');
}

/** What was warned of. */
export function warningsOf({ events }: Ended): string[] {
  return events.flatMap((event) => (event.type === 'log' && event.level === 'warn' ? [event.message] : []));
}

/** How the build came by its base images, in the order in which it found them. */
export function basesOf({ events }: Ended): { readonly outcome: string; readonly detail: string }[] {
  return events.flatMap((event) => (event.type === 'base' ? [event] : []));
}

/** A temporary directory that is removed when disposed. */
export async function temporaryDirectory(): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await mkdtemp(join(tmpdir(), 'kiln-test-'));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true, maxRetries: 5 }) };
}

/** Writes files, making their directories. */
export async function writeFiles(
  directory: string,
  files: Readonly<Record<string, string>>,
): Promise<string> {
  for (const [name, content] of Object.entries(files)) {
    const path = join(directory, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, content);
  }
  return directory;
}

/** The mount points of this process's mount namespace that lie below a directory. */
export function mountsBelow(directory: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((point) => point.startsWith(`${directory}/`));
}
