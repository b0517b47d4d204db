import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { debianTar } from '../test/support/debian.ts';
import { pushTestImage } from '../test/support/images.ts';
import { startRegistry, type TestRegistry } from '../test/support/registry.ts';

export const root = join(import.meta.dirname, '..');

/** A registry with a Debian image, and a directory for everything else. */
export interface Ground extends AsyncDisposable {
  readonly registry: TestRegistry;
  readonly directory: string;
  /** A Debian of about 200 MB unpacked. */
  readonly base: string;
  /** Path of a copy of the example. */
  readonly example: string;
}

export async function openGround(): Promise<Ground> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-bench-'));
  const registry = await startRegistry();
  const base = `${registry.host}/debian:bookworm`;
  await pushTestImage(directory, base, { layers: [await debianTar()] });
  const example = join(directory, 'wordcount');
  await cp(join(root, 'examples/wordcount'), example, { recursive: true });
  return {
    registry,
    directory,
    base,
    example,
    [Symbol.asyncDispose]: async () => {
      await registry[Symbol.asyncDispose]();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** What a command took. */
export interface Cost {
  readonly seconds: number;
  /** Bytes: the highest resident memory of the command's own process, threads included. */
  readonly peakMemory: number;
  readonly output: string;
  /** When it was started, in nanoseconds since 1970. */
  readonly startedAt: bigint;
}

/** After so many seconds a command is taken to hang, also where the machine has much else to do. */
const patience = 300;

/** Runs a command that must succeed. One that does not end is ended, and named. */
export async function measure(command: string, args: readonly string[]): Promise<Cost> {
  const startedAt = BigInt(Date.now()) * 1_000_000n;
  const started = performance.now();
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => (output += text));
  let peakMemory = 0;
  const timer = setInterval(() => {
    peakMemory = Math.max(peakMemory, highWaterMark(child.pid ?? 0));
  }, 20);
  const deadline = setTimeout(() => child.kill('SIGKILL'), patience * 1000);
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  clearTimeout(deadline);
  clearInterval(timer);
  const seconds = (performance.now() - started) / 1000;
  if (seconds >= patience)
    throw new Error(`${command} ${args.join(' ')} took more than ${patience} s:\n${output}`);
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${String(code)}:\n${output}`);
  return { seconds, peakMemory, output, startedAt };
}

/** One of Kiln's compiled programs. */
export function kiln(name: 'executor' | 'warmer', args: readonly string[]): Promise<Cost> {
  return measure(program(name), args);
}

/** The path of one of Kiln's compiled programs. */
export function program(name: 'executor' | 'warmer'): string {
  return join(root, 'bin', name);
}

/** The highest resident memory of a process so far, in bytes. */
export function highWaterMark(pid: number): number {
  try {
    const match = /^VmHWM:\s+([0-9]+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
    return Number(match?.[1] ?? 0) * 1024;
  } catch {
    return 0; // it has ended
  }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}
