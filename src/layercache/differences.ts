import { type CanonicalValue, printable } from '../support/index.ts';
import { type EntryBase, type EntryOrigin, baseKeyOf } from './entry-origin.ts';
import type { CacheKey } from './keys.ts';

/** A step whose key is to be explained, or whose object was stored. */
export interface KeyedStep {
  readonly key: CacheKey;
  readonly description: CanonicalValue;
  /** The instruction as written. */
  readonly instruction: string;
  readonly origin: EntryOrigin | undefined;
}

/** One field of two key objects that is not the same in both, in words. */
export interface Difference {
  /** The member of the object: `env.NODE_VERSION`, `content`, `parent`, … */
  readonly field: string;
  readonly words: string;
}

/** What makes words of a step's own. */
export interface StepWords {
  /** Variables of a RUN that are set by ARG; the others are set by ENV. */
  readonly argumentNames?: ReadonlySet<string>;
  /** By target, what mounts of a RUN are from, in words. */
  readonly mountSources?: ReadonlyMap<string, string>;
  /** What a copy copies from, in words: `stage build`, `image alpine:3`. */
  readonly sourceName?: string | undefined;
}

type Fields = Readonly<Record<string, CanonicalValue | undefined>>;

/**
 * What of a step is not as it was when another one was stored, its own fields first, then what it stands on. Empty when
 * both have the same key. The kinds of both are the same.
 */
export function differences(now: KeyedStep, before: KeyedStep, words: StepWords = {}): Difference[] {
  const current = now.description as Fields;
  const former = before.description as Fields;
  const own = [
    ...commandDifferences(now, before),
    ...environmentDifferences(current.env as Fields, former.env as Fields, words.argumentNames),
    ...heredocDifferences(current.files, former.files),
    ...mountDifferences(current.mounts, former.mounts, words.mountSources),
    ...plainDifferences(current, former),
    ...sourceDifferences(current, former, words.sourceName),
  ];
  return [...own, ...groundDifferences(now, before)];
}

/** Whether an object that was stored by somebody has the shape that comparisons rely on. */
export function isComparable(description: CanonicalValue): boolean {
  if (description === null || typeof description !== 'object' || Array.isArray(description)) return false;
  const { argv, env, files, mounts } = description as Fields;
  const isText = (value: unknown): boolean => typeof value === 'string';
  const isFile = (file: unknown): boolean => {
    const { name, content } = (file ?? {}) as Fields;
    return isText(name) && isText(content);
  };
  const isMount = (mount: unknown): boolean =>
    mount !== null && typeof mount === 'object' && isText((mount as Fields).type);
  return (
    (argv === undefined || (Array.isArray(argv) && argv.every(isText))) &&
    (env === undefined || (env !== null && typeof env === 'object' && Object.values(env).every(isText))) &&
    (files === undefined || (Array.isArray(files) && files.every(isFile))) &&
    (mounts === undefined || (Array.isArray(mounts) && mounts.every(isMount)))
  );
}

function commandDifferences(now: KeyedStep, before: KeyedStep): Difference[] {
  const [argv, former] = [now, before].map(({ description }) => (description as Fields).argv) as string[][];
  if (argv === undefined || former === undefined || same(argv, former)) return [];
  const script = argv.at(-1);
  const field = 'argv';
  if (script === former.at(-1) && argv.length === 3)
    return [
      {
        field,
        words: `SHELL changed from ${former.slice(0, -1).join(' ')} to ${argv.slice(0, -1).join(' ')}`,
      },
    ];
  if (now.instruction === before.instruction)
    return [
      { field, words: /<</.test(now.instruction) ? 'the here-document changed' : 'the command changed' },
    ];
  return [{ field, words: `the command changed, it was: ${shown(before.instruction)}` }];
}

function environmentDifferences(
  now: Fields | undefined,
  before: Fields | undefined,
  argumentNames: ReadonlySet<string> | undefined,
): Difference[] {
  if (now === undefined || before === undefined) return [];
  const names = [...new Set([...Object.keys(now), ...Object.keys(before)])].sort();
  return names.flatMap((name) => {
    if (now[name] === before[name]) return [];
    const field = `env.${name}`;
    if (now[name] === undefined) return [{ field, words: `${shown(name)} is no longer set` }];
    const word = argumentNames?.has(name) === true ? 'ARG' : 'ENV';
    return [{ field, words: `${word} ${shown(name)} ${before[name] === undefined ? 'is new' : 'changed'}` }];
  });
}

function heredocDifferences(
  now: CanonicalValue | undefined,
  before: CanonicalValue | undefined,
): Difference[] {
  if (!Array.isArray(now) || !Array.isArray(before)) return [];
  const contents = (files: CanonicalValue): Map<string, string> =>
    new Map(
      (files as readonly { name: string; content: string }[]).map(({ name, content }) => [name, content]),
    );
  const [current, former] = [contents(now), contents(before)];
  return [...new Set([...current.keys(), ...former.keys()])].flatMap((name) => {
    if (current.get(name) === former.get(name)) return [];
    const what = !former.has(name) ? 'is new' : current.has(name) ? 'changed' : 'is gone';
    return [{ field: 'files', words: `the here-document ${shown(name)} ${what}` }];
  });
}

interface KeyedMount extends Fields {
  readonly type: string;
}

/** Mounts of a RUN, each by its kind and target. What it shows is told apart from how it is mounted. */
function mountDifferences(
  now: CanonicalValue | undefined,
  before: CanonicalValue | undefined,
  sources: ReadonlyMap<string, string> | undefined,
): Difference[] {
  const [current, former] = [now, before].map((mounts) => {
    const all = Array.isArray(mounts) ? (mounts as readonly KeyedMount[]) : [];
    return new Map(all.map((mount) => [mountName(mount), mount]));
  });
  const names = [...new Set([...(current?.keys() ?? []), ...(former?.keys() ?? [])])];
  return names.flatMap((name): Difference[] => {
    const [mount, old] = [current?.get(name), former?.get(name)];
    if (same(mount, old)) return [];
    if (mount === undefined || old === undefined)
      return [{ field: 'mounts', words: `the ${name} ${old === undefined ? 'is new' : 'is gone'}` }];
    const { content, source, path: _path, ...options } = mount;
    const { content: oldContent, source: oldSource, path: _oldPath, ...oldOptions } = old;
    if (!same(options, oldOptions)) return [{ field: 'mounts', words: `options of the ${name} changed` }];
    if (content !== oldContent) return [{ field: 'content', words: `files of the ${name} changed` }];
    const from = typeof mount.target === 'string' ? sources?.get(mount.target) : undefined;
    return source === oldSource
      ? [{ field: 'mounts', words: `the source of the ${name} changed` }]
      : [{ field: 'source', words: `${from ?? 'what it is from'} changed, which is the ${name}` }];
  });
}

/** `bind mount at /src`, as messages call it. */
function mountName({ type, target, env, id }: KeyedMount): string {
  const text = (value: CanonicalValue | undefined): string => shown(typeof value === 'string' ? value : '');
  if (target !== undefined) return `${text(type)} mount at ${text(target)}`;
  return `${text(type)} ${text(env ?? id)}`;
}

/** Members that are one value, and how they are called. */
const plain: readonly (readonly [field: string, name: string])[] = [
  ['path', 'the directory'],
  ['patterns', 'the sources'],
  ['destination', 'the destination'],
  ['chown', '--chown'],
  ['chmod', '--chmod'],
  ['parents', '--parents'],
  ['excludes', '--exclude'],
  ['user', 'USER'],
  ['workingDirectory', 'the working directory'],
  ['network', '--network'],
];

function plainDifferences(now: Fields, before: Fields): Difference[] {
  const found = plain.flatMap(([field, name]) => {
    if (same(now[field], before[field])) return [];
    const [current, former] = [textOf(field, now[field]), textOf(field, before[field])];
    if (former === '') return [{ field, words: `${name} is new: ${current}` }];
    if (current === '') return [{ field, words: `${name} ${former} is gone` }];
    return [{ field, words: `${name} changed from ${former} to ${current}` }];
  });
  if (now.unpackArchives !== before.unpackArchives)
    found.push({
      field: 'unpackArchives',
      words: now.unpackArchives === true ? 'COPY became ADD, which unpacks archives' : 'ADD became COPY',
    });
  return found;
}

function sourceDifferences(now: Fields, before: Fields, sourceName: string | undefined): Difference[] {
  if (now.content !== before.content) {
    const words =
      before.content === null
        ? 'files are copied beside here-documents'
        : now.content === null
          ? 'only here-documents are copied'
          : 'files that it copies changed';
    return [{ field: 'content', words }];
  }
  if (now.source === before.source) return [];
  return [{ field: 'source', words: `${sourceName ?? 'what it copies from'} changed` }];
}

/** How what a step stands on differs: its base, when that is what is right below it, or the step before it. */
function groundDifferences(now: KeyedStep, before: KeyedStep): Difference[] {
  const [parent, former] = [now, before].map(({ description }) => (description as Fields).parent);
  if (parent === former) return [];
  const base = baseBelow(now);
  const formerBase = baseBelow(before);
  if (base === undefined || formerBase === undefined)
    return [{ field: 'parent', words: 'a step before it changed' }];
  if (base.platform !== formerBase.platform)
    return [{ field: 'base.platform', words: `it was made for ${shown(formerBase.platform)}` }];
  if (base.name !== formerBase.name)
    return [
      { field: 'base.name', words: `the base is now ${shown(base.name)}, it was ${shown(formerBase.name)}` },
    ];
  if (base.clampTime !== formerBase.clampTime)
    return [{ field: 'base.clampTime', words: 'SOURCE_DATE_EPOCH or --reproducible changed' }];
  if (base.ignored?.join('\0') !== formerBase.ignored?.join('\0'))
    return [{ field: 'base.ignored', words: '--ignore-path changed' }];
  return [{ field: 'base.chainID', words: `base content changed: ${shown(base.name)}` }];
}

/** The base that a step stands on directly; undefined when another step is between them. */
export function baseBelow({ description, origin }: KeyedStep): EntryBase | undefined {
  const { parent } = description as Fields;
  return origin !== undefined && baseKeyOf(origin.base) === parent ? origin.base : undefined;
}

function textOf(field: string, value: CanonicalValue | undefined): string {
  if (value === undefined || value === null) return '';
  if (field === 'user' && value === '') return 'root';
  return shown(
    typeof value === 'string' ? value : Array.isArray(value) ? value.join(' ') : JSON.stringify(value),
  );
}

/** Text that comes from a cache, for a line of a terminal. */
function shown(text: string): string {
  const line = printable(text).replace(/\s+/g, ' ').trim();
  return line.length > 120 ? `${line.slice(0, 119)}…` : line;
}

function same(a: CanonicalValue | undefined, b: CanonicalValue | undefined): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}
