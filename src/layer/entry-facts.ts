import { status } from '../os/index.ts';

/** What a layer keeps of an entry's status. */
export interface EntryFacts {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Of files. */
  readonly size: number;
  /** Nanoseconds since the epoch. */
  readonly modified: bigint;
  /** Of device nodes. */
  readonly major: number;
  readonly minor: number;
}

/** The facts in a status record. */
export function entryFacts(record: Uint32Array, at: number): EntryFacts {
  return {
    mode: status.mode(record, at),
    uid: status.uid(record, at),
    gid: status.gid(record, at),
    size: status.size(record, at),
    modified: status.modified(record, at),
    ...status.device(record, at),
  };
}
