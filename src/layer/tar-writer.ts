import type { TarEntry } from './tar-reader.ts';

const block = 512;
const flags: Readonly<Record<TarEntry['type'], string>> = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  character: '3',
  block: '4',
  directory: '5',
  fifo: '6',
};

/**
 * The header blocks of one entry: POSIX ustar, preceded by a PAX header for whatever does not fit into it (long or
 * non-ASCII names, sub-second times, large numbers, extended attributes). Equal entries give equal bytes; user and group
 * names are empty, so that the builder's own accounts never show.
 */
export function tarHeader(entry: TarEntry): Buffer {
  const records: [string, Buffer][] = [];
  const text = (name: string, value: string | number | bigint): void =>
    void records.push([name, Buffer.from(String(value))]);
  const path = fitName(entry.path, 100);
  if (path === undefined) records.push(['path', entry.path]);
  const link = fitName(entry.link, 100);
  if (link === undefined) records.push(['linkpath', entry.link]);
  if (entry.uid > 0o7777777) text('uid', entry.uid);
  if (entry.gid > 0o7777777) text('gid', entry.gid);
  if (entry.size > 0o77777777777) text('size', entry.size);
  const seconds = floorSeconds(entry.modified);
  const fraction = entry.modified - seconds * 1_000_000_000n;
  if (fraction !== 0n || seconds < 0n || seconds > 0o77777777777n) text('mtime', formatTime(entry.modified));
  for (const [name, value] of entry.xattrs) records.push([`SCHILY.xattr.${name}`, value]);
  const header = ustarHeader({
    name: path ?? truncateName(entry.path),
    link: link ?? truncateName(entry.link),
    flag: flags[entry.type],
    mode: entry.mode,
    uid: entry.uid > 0o7777777 ? 0 : entry.uid,
    gid: entry.gid > 0o7777777 ? 0 : entry.gid,
    size: entry.size > 0o77777777777 ? 0 : entry.size,
    seconds: seconds < 0n || seconds > 0o77777777777n ? 0n : seconds,
    major: entry.major,
    minor: entry.minor,
  });
  return records.length === 0 ? header : Buffer.concat([paxHeader(records, entry.path), header]);
}

/** The zero bytes that fill an entry's content up to the next block. */
export function tarPadding(size: number): Buffer {
  return Buffer.alloc((block - (size % block)) % block);
}

/** The two zero blocks that end an archive. */
export const tarEnd: Buffer = Buffer.alloc(2 * block);

function fitName(name: Buffer, length: number): Buffer | undefined {
  return name.length <= length && name.every((byte) => byte < 0x80) ? name : undefined;
}

function truncateName(name: Buffer): Buffer {
  return Buffer.from(name.subarray(0, 100).map((byte) => (byte < 0x80 ? byte : 0x3f)));
}

function floorSeconds(nanoseconds: bigint): bigint {
  const seconds = nanoseconds / 1_000_000_000n;
  return nanoseconds < 0n && seconds * 1_000_000_000n !== nanoseconds ? seconds - 1n : seconds;
}

function formatTime(nanoseconds: bigint): string {
  const sign = nanoseconds < 0n ? '-' : '';
  const absolute = nanoseconds < 0n ? -nanoseconds : nanoseconds;
  const fraction = String(absolute % 1_000_000_000n)
    .padStart(9, '0')
    .replace(/0+$/, '');
  return `${sign}${absolute / 1_000_000_000n}${fraction === '' ? '' : `.${fraction}`}`;
}

interface HeaderFields {
  readonly name: Buffer;
  readonly link: Buffer;
  readonly flag: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly seconds: bigint;
  readonly major: number;
  readonly minor: number;
}

function ustarHeader(fields: HeaderFields): Buffer {
  const header = Buffer.alloc(block);
  const octal = (value: number | bigint, offset: number, length: number): void =>
    void header.write(value.toString(8).padStart(length - 1, '0'), offset, 'latin1');
  fields.name.copy(header, 0, 0, 100);
  octal(fields.mode, 100, 8);
  octal(fields.uid, 108, 8);
  octal(fields.gid, 116, 8);
  octal(fields.size, 124, 12);
  octal(fields.seconds, 136, 12);
  header.write(fields.flag, 156, 'latin1');
  fields.link.copy(header, 157, 0, 100);
  header.write('ustar\x0000', 257, 'latin1');
  octal(fields.major, 329, 8);
  octal(fields.minor, 337, 8);
  header.fill(' ', 148, 156);
  let sum = 0;
  for (const byte of header) sum += byte;
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return header;
}

function paxHeader(records: readonly (readonly [string, Buffer])[], path: Buffer): Buffer {
  const body = Buffer.concat(records.map(([name, value]) => paxRecord(name, value)));
  const header = ustarHeader({
    name: truncateName(Buffer.concat([Buffer.from('PaxHeaders/'), path])),
    link: Buffer.alloc(0),
    flag: 'x',
    mode: 0o644,
    uid: 0,
    gid: 0,
    size: body.length,
    seconds: 0n,
    major: 0,
    minor: 0,
  });
  return Buffer.concat([header, body, tarPadding(body.length)]);
}

/** `length name=value\n`, where the length counts its own digits. */
function paxRecord(name: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${name}=`), value, Buffer.from('\n')]);
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}
