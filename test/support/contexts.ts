import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import {
  accessOf,
  type GitFlags,
  fetchContext,
  parseBuildContext,
} from '../../executor/context/kinds/index.ts';
import { RegistryClient, type RegistryOptions } from '../../src/registry/index.ts';
import { Progress } from '../../src/support/index.ts';
import { temporaryDirectory } from './programs.ts';

/** A context that was fetched in the test's own process. */
export interface FetchedContext extends AsyncDisposable {
  readonly directory: string;
  /** Everything it logged. */
  readonly messages: readonly string[];
}

export interface FetchOptions extends RegistryOptions {
  readonly environment?: Readonly<Record<string, string>>;
  readonly git?: GitFlags;
  readonly signal?: AbortSignal;
  /** Where it goes; default a new directory. */
  readonly scratch?: string;
}

/** Fetches a context as a build does. What fails leaves nothing behind, which is checked. */
export async function fetchHere(address: string, options: FetchOptions = {}): Promise<FetchedContext> {
  const { environment = {}, git = {}, signal = new AbortController().signal, ...registry } = options;
  const context = parseBuildContext(address, git, environment);
  if (context.kind === 'directory') throw new Error(`${address} need not be fetched`);
  const own = await temporaryDirectory();
  const scratch = options.scratch ?? own.path;
  const progress = new Progress();
  const messages: string[] = [];
  progress.listen((event) => event.type === 'log' && messages.push(event.message));
  await using client = new RegistryClient({ environment, longestWait: 10, ...registry });
  try {
    const place = { client, scratch, progress, signal, environment };
    const directory = await fetchContext(context, place, '--context', accessOf(git));
    return { directory, messages, [Symbol.asyncDispose]: () => own[Symbol.asyncDispose]() };
  } catch (error) {
    const left = readdirSync(scratch).filter((name) => name.startsWith('context-'));
    await own[Symbol.asyncDispose]();
    if (left.length > 0) throw new Error(`${left.join(', ')} was left behind`, { cause: error });
    throw error;
  }
}

export type ArchiveKind = 'plain' | 'gzip' | 'zstd' | 'bzip2' | 'xz';

/** A directory as a tar archive, made by the system's tar. */
export function archiveOf(directory: string, kind: ArchiveKind = 'plain'): Buffer {
  const flags = kind === 'plain' ? [] : [`--${kind}`];
  return execFileSync('tar', ['-C', directory, ...flags, '-c', '.'], { maxBuffer: 1 << 28 });
}
