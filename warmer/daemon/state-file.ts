import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parsePlatform, parseReference } from '../../src/oci/index.ts';
import { messageOf, type Progress, systemErrorCode, UsageError } from '../../src/support/index.ts';
import { type ImageName, replaceFile } from '../../src/volume/index.ts';
import type { AdoptionState } from './adoption.ts';
import type { CacheRepositoriesState } from './cache-repositories.ts';
import type { Clock } from './clock.ts';
import type { StoredSample } from './history.ts';
import type { StoredRequest } from './on-demand.ts';

/** What the daemon remembers across restarts. All of it may be lost: then it is learned anew. */
export interface DaemonState extends AdoptionState {
  readonly requests: readonly StoredRequest[];
  readonly samples: readonly StoredSample[];
  readonly cacheRepositories: CacheRepositoriesState;
  /** Images that are pinned because the configuration says so. */
  readonly pinned: readonly ImageName[];
  /** The random name of the node in records of hits; undefined: a new one. */
  readonly node: string | undefined;
}

export const emptyState: DaemonState = {
  adopted: [],
  misses: [],
  requests: [],
  samples: [],
  cacheRepositories: {},
  pinned: [],
  node: undefined,
};

const fileName = 'warmer-state.json';
const version = 1;
/** Changes within this time are written together, in milliseconds. */
const writeDelay = 2000;

/**
 * `warmer-state.json` on the volume, replaced as a whole. It is written after what it speaks of, and only says what to keep
 * warm and for how long: a stale one makes the daemon ask or prune a little too much, never wrongly.
 */
export class StateFile implements AsyncDisposable {
  readonly #directory: string;
  readonly #clock: Clock;
  readonly #progress: Progress;
  readonly #state: () => DaemonState;
  #pending: Disposable | undefined;
  #writing: Promise<void> = Promise.resolve();
  #broken = false;

  /** @param state gives what is to be written, when it is. */
  constructor(
    directory: string,
    parts: { readonly clock: Clock; readonly progress: Progress },
    state: () => DaemonState,
  ) {
    this.#directory = directory;
    this.#clock = parts.clock;
    this.#progress = parts.progress;
    this.#state = state;
  }

  /** Says that there is something to write; it is written soon. */
  changed(): void {
    this.#pending ??= this.#clock.after(writeDelay, () => this.#write());
  }

  /** Writes what has not been written. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#pending !== undefined) this.#write();
    await this.#writing;
  }

  #write(): void {
    this.#pending?.[Symbol.dispose]();
    this.#pending = undefined;
    this.#writing = this.#writing.then(async () => {
      const text = JSON.stringify({ version, ...this.#state() });
      try {
        const ingest = join(this.#directory, 'ingest');
        await replaceFile(join(this.#directory, fileName), text, { ingest, durable: false });
        this.#broken = false;
      } catch (error) {
        // Such as on a full disk; said once.
        if (!this.#broken) this.#progress.warn(`${fileName} was not written: ${messageOf(error)}`);
        this.#broken = true;
      }
    });
  }
}

/** What the last daemon on this volume remembered; whatever cannot be understood is as if it were not there. */
export async function readState(directory: string, progress: Progress): Promise<DaemonState> {
  let value: unknown;
  try {
    value = JSON.parse(await readFile(join(directory, fileName), 'utf8'));
  } catch (error) {
    if (systemErrorCode(error) !== 'ENOENT')
      progress.warn(`${fileName} is not used: ${messageOf(error)}; what it said is learned anew`);
    return emptyState;
  }
  if (!isRecord(value) || value.version !== version) return emptyState;
  return {
    adopted: listOf(value.adopted, isImageName).filter(hasTimes('since', 'lastUsedAt')),
    misses: listOf(value.misses, isImageName).filter(hasTimeList),
    requests: listOf(value.requests, isImageName).filter(hasTimes('at')),
    samples: listOf(value.samples, isRecord).filter(hasTimes('at', 'hits', 'misses')),
    cacheRepositories: entriesOf(value.cacheRepositories),
    pinned: listOf(value.pinned, isImageName),
    node: typeof value.node === 'string' && /^[a-z0-9]{1,32}$/.test(value.node) ? value.node : undefined,
  };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function listOf<T>(value: unknown, isItem: (item: unknown) => item is T): T[] {
  return Array.isArray(value) ? value.filter(isItem) : [];
}

function isImageName(value: unknown): value is ImageName & Record<string, unknown> {
  if (!isRecord(value) || typeof value.reference !== 'string' || typeof value.platform !== 'string')
    return false;
  try {
    parseReference(value.reference);
    parsePlatform(value.platform);
    return true;
  } catch (error) {
    if (error instanceof UsageError) return false;
    throw error;
  }
}

function hasTimes<Name extends string>(...names: readonly Name[]) {
  return <T extends object>(value: T): value is T & Record<Name, number> =>
    names.every((name) => Number.isFinite((value as Record<string, unknown>)[name]));
}

function hasTimeList<T extends object>(value: T): value is T & { at: number[] } {
  const { at } = value as { at?: unknown };
  return Array.isArray(at) && at.every((time) => Number.isFinite(time));
}

function entriesOf(value: unknown): CacheRepositoriesState {
  if (!isRecord(value)) return {};
  const repositories = Object.entries(value).map(([name, entries]) => {
    const sound = Object.entries(isRecord(entries) ? entries : {}).filter(
      (entry): entry is [string, number | null] => entry[1] === null || Number.isFinite(entry[1]),
    );
    return [name, Object.fromEntries(sound)] as const;
  });
  return Object.fromEntries(repositories);
}
