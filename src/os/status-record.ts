import { constants } from 'node:fs';

/*
 * What is kept of a file's status: what statx(2) gives, but for the access time, the counts of blocks and the device that
 * the file lies on. A record is some words of a Uint32Array, so that hundreds of thousands of them can be compared without
 * an object made. Equal records mean that nothing changed.
 */

/** Words of one record. */
export const statusWords = 14;

/** Bytes of what statx(2) writes. */
export const statxSize = 256;

/** Reads what statx(2) wrote, and puts it down as a record. @param from of {@link statxSize} bytes. */
export function recordStatus(from: Uint32Array, target: Uint32Array, at: number): void {
  const mode = word(from, 7) & 0xffff;
  const kind = mode & constants.S_IFMT;
  target[at] = word(from, 4); // links
  target[at + 1] = word(from, 5); // owner
  target[at + 2] = word(from, 6); // group
  target[at + 3] = mode;
  target[at + 4] = word(from, 8); // inode
  target[at + 5] = word(from, 9);
  // Devices and directories have no size that matters. Only of directories one wants to know when they were born.
  const extent = kind === constants.S_IFCHR || kind === constants.S_IFBLK ? 32 : 10;
  target[at + 6] = kind === constants.S_IFDIR ? word(from, 20) : word(from, extent);
  target[at + 7] = kind === constants.S_IFDIR ? word(from, 22) : word(from, extent + 1);
  target[at + 8] = word(from, 24); // changed
  target[at + 9] = word(from, 25);
  target[at + 10] = word(from, 26);
  target[at + 11] = word(from, 28); // modified
  target[at + 12] = word(from, 29);
  target[at + 13] = word(from, 30);
}

function word(words: Uint32Array, at: number): number {
  return words[at] ?? 0;
}

/** Reads a record. */
export const status = {
  links: (record: Uint32Array, at: number): number => word(record, at),
  uid: (record: Uint32Array, at: number): number => word(record, at + 1),
  gid: (record: Uint32Array, at: number): number => word(record, at + 2),
  /** Type and permission bits, as in `st_mode`. */
  mode: (record: Uint32Array, at: number): number => word(record, at + 3),
  inode: (record: Uint32Array, at: number): bigint =>
    BigInt(word(record, at + 4)) | (BigInt(word(record, at + 5)) << 32n),
  /** Bytes; of no meaning for directories and devices. */
  size: (record: Uint32Array, at: number): number => word(record, at + 6) + word(record, at + 7) * 2 ** 32,
  /** Numbers of a device node; of no meaning for anything else. */
  device: (record: Uint32Array, at: number): { major: number; minor: number } => ({
    major: word(record, at + 6),
    minor: word(record, at + 7),
  }),
  /** Whether the file system knows when a directory was made. */
  hasBirth: (record: Uint32Array, at: number): boolean =>
    word(record, at + 6) !== 0 || word(record, at + 7) !== 0,
  /** Time of change, in whole seconds since the epoch, and the nanoseconds over. */
  changedSeconds: (record: Uint32Array, at: number): number =>
    word(record, at + 8) + word(record, at + 9) * 2 ** 32,
  changedNanoseconds: (record: Uint32Array, at: number): number => word(record, at + 10),
  /** Nanoseconds since the epoch. */
  modified: (record: Uint32Array, at: number): bigint => time(record, at + 11),
} as const;

function time(record: Uint32Array, at: number): bigint {
  const seconds = BigInt.asIntN(64, BigInt(word(record, at)) | (BigInt(word(record, at + 1)) << 32n));
  return seconds * 1_000_000_000n + BigInt(word(record, at + 2));
}

/** Words of a record, from and to. */
const fieldRanges = {
  all: [0, statusWords],
  'owner and mode': [1, 4],
  inode: [4, 6],
  /** Size of a file, numbers of a device, birth of a directory. */
  extent: [6, 8],
  changed: [8, 11],
  modified: [11, 14],
} as const;

export type StatusFields = keyof typeof fieldRanges;

/** Whether two records agree in some of their fields. */
export function sameStatus(
  left: Uint32Array,
  leftAt: number,
  right: Uint32Array,
  rightAt: number,
  fields: StatusFields,
): boolean {
  const [from, to] = fieldRanges[fields];
  for (let word = from; word < to; word++) if (left[leftAt + word] !== right[rightAt + word]) return false;
  return true;
}
