import { nearestWord, type Place, syntaxError } from './fields.ts';

/** Kinds of `RUN --mount` (Dockerfile reference, "RUN --mount"). */
export const mountTypes = ['bind', 'cache', 'tmpfs', 'secret', 'ssh'] as const;
export type MountType = (typeof mountTypes)[number];

/** How several steps share a cache mount. */
export const sharingModes = ['shared', 'private', 'locked'] as const;
export type SharingMode = (typeof sharingModes)[number];

/** One `--mount` of a RUN, with its variables expanded and its defaults filled in. */
export interface RunMount {
  readonly type: MountType;
  /** Stage, image or named context; undefined for the build context. */
  readonly from: string | undefined;
  readonly source: string | undefined;
  readonly target: string | undefined;
  readonly readOnly: boolean;
  /** Bytes of a tmpfs; undefined for no limit. */
  readonly size: number | undefined;
  readonly id: string | undefined;
  readonly sharing: SharingMode;
  readonly required: boolean;
  /** The variable that a secret is put into; the empty text for one of the secret's own name. */
  readonly env: string | undefined;
  /** Permission bits. */
  readonly mode: number | undefined;
  readonly uid: number | undefined;
  readonly gid: number | undefined;
}

const keys = [
  ...['type', 'from', 'source', 'src', 'target', 'dst', 'destination', 'readonly', 'ro', 'readwrite', 'rw'],
  ...['size', 'id', 'sharing', 'required', 'env', 'mode', 'uid', 'gid'],
];
const aliases: Readonly<Record<string, string>> = {
  src: 'source',
  dst: 'target',
  destination: 'target',
  ro: 'readonly',
  rw: 'readwrite',
};
/** What may stand without a value. */
const switches = new Set(['readonly', 'readwrite', 'required']);
const allowed: Readonly<Record<string, readonly MountType[]>> = {
  size: ['tmpfs'],
  sharing: ['cache'],
  required: ['secret', 'ssh'],
  env: ['secret'],
  mode: ['cache', 'secret', 'ssh'],
  uid: ['cache', 'secret', 'ssh'],
  gid: ['cache', 'secret', 'ssh'],
  from: ['bind', 'cache'],
};

/** The fields of a `--mount` as written: keys in their long form, values not expanded. */
export type MountFields = ReadonlyMap<string, string | undefined>;

/**
 * Splits the value of a `--mount` into fields, as a line of CSV (RFC 4180), and checks the keys. Values are checked when they
 * are expanded.
 *
 * @throws BuildError `E_DOCKERFILE_SYNTAX`.
 */
export function parseMountFields(text: string, place: Place): MountFields {
  const fields = new Map<string, string | undefined>();
  for (const field of splitFields(text, place)) {
    const equals = field.indexOf('=');
    const written = (equals < 0 ? field : field.slice(0, equals)).toLowerCase();
    const key = aliases[written] ?? written;
    if (!keys.includes(written)) {
      const near = nearestWord(written, keys);
      throw syntaxError(
        place,
        `RUN --mount has no option "${written}"`,
        near === undefined ? undefined : `Did you mean ${near}?`,
        written,
      );
    }
    const value = equals < 0 ? undefined : field.slice(equals + 1);
    if (value === undefined && !switches.has(key))
      throw syntaxError(place, `RUN --mount ${written} needs a value`, `Write ${written}=….`);
    if (key === 'from' && /\$./.test(value ?? ''))
      throw syntaxError(
        place,
        'RUN --mount from= does not expand variables',
        'Write a stage FROM the variable, give it a name, and use that.',
      );
    fields.set(key, value);
  }
  return fields;
}

function splitFields(text: string, place: Place): string[] {
  const fields: string[] = [];
  const field = /(?:"((?:[^"]|"")*)"|([^",]*))(,|$)/y;
  for (;;) {
    const start = field.lastIndex;
    const match = field.exec(text);
    if (match === null)
      throw syntaxError(
        place,
        `RUN --mount=${text}: a quote is misplaced after ${JSON.stringify(text.slice(0, start))}`,
        'A field with commas is quoted as a whole, with "" for a quote in it.',
      );
    fields.push(match[1] === undefined ? (match[2] ?? '') : match[1].replaceAll('""', '"'));
    if (match[3] === '') return fields;
  }
}

/**
 * A mount with its values expanded and checked.
 *
 * @throws BuildError `E_DOCKERFILE_SYNTAX`.
 */
export function resolveMount(
  fields: MountFields,
  expandValue: (text: string) => string,
  place: Place,
): RunMount {
  const values = new Map<string, string | undefined>();
  for (const [key, value] of fields)
    values.set(key, value === undefined || key === 'from' ? value : expandValue(value));
  const reader = new MountReader(values, place);
  const type = reader.oneOf('type', mountTypes) ?? 'bind';
  reader.requireAllowed(type);
  const writable = reader.boolean('readwrite');
  const readOnly = reader.boolean('readonly') ?? (writable === undefined ? undefined : !writable);
  const mount: RunMount = {
    type,
    from: values.get('from'),
    source: values.get('source'),
    target: values.get('target'),
    readOnly: readOnly ?? (type !== 'cache' && type !== 'tmpfs'),
    size: reader.size('size'),
    id: values.get('id'),
    sharing: reader.oneOf('sharing', sharingModes) ?? 'shared',
    required: reader.boolean('required') ?? false,
    env: values.get('env'),
    mode: reader.number('mode', 8),
    uid: reader.number('uid', 10),
    gid: reader.number('gid', 10),
  };
  checkTogether(mount, place);
  return mount;
}

/** Rules about several fields. */
function checkTogether(mount: RunMount, place: Place): void {
  const { type, source, target, id } = mount;
  if (type === 'secret' && source === undefined && target === undefined && id === undefined)
    throw syntaxError(place, 'RUN --mount=type=secret names no secret', 'Add id=NAME.');
  if (type === 'secret' && source !== undefined && id !== undefined)
    throw syntaxError(place, 'RUN --mount=type=secret has both id and source', 'Leave out source.');
  if (type === 'ssh' && source !== undefined)
    throw syntaxError(
      place,
      'RUN --mount=type=ssh has no option "source"',
      'Name the agent with id=, and where its socket is with target=.',
      'source',
    );
}

class MountReader {
  readonly #values: MountFields;
  readonly #place: Place;

  constructor(values: MountFields, place: Place) {
    this.#values = values;
    this.#place = place;
  }

  requireAllowed(type: MountType): void {
    for (const key of this.#values.keys()) {
      const types = allowed[key];
      if (types !== undefined && !types.includes(type))
        throw syntaxError(
          this.#place,
          `RUN --mount=type=${type} has no option "${key}"`,
          `Only ${types.join(' and ')} mounts have it.`,
        );
    }
  }

  oneOf<Word extends string>(key: string, words: readonly Word[]): Word | undefined {
    const value = this.#values.get(key);
    if (value === undefined) return undefined;
    const found = words.find((word) => word === value.toLowerCase());
    if (found !== undefined) return found;
    const near = nearestWord(value, words);
    throw this.#wrong(
      key,
      near === undefined ? `It is one of ${words.join(', ')}.` : `Did you mean ${near}?`,
    );
  }

  boolean(key: string): boolean | undefined {
    if (!this.#values.has(key)) return undefined;
    const value = this.#values.get(key) ?? 'true';
    if (/^(?:1|t|true)$/i.test(value)) return true;
    if (/^(?:0|f|false)$/i.test(value)) return false;
    throw this.#wrong(key, 'It is true or false.');
  }

  number(key: string, radix: 8 | 10): number | undefined {
    const value = this.#values.get(key);
    if (value === undefined) return undefined;
    const number = (radix === 8 ? /^[0-7]+$/ : /^[0-9]+$/).test(value) ? parseInt(value, radix) : NaN;
    if (number <= 0xffff_ffff) return number;
    throw this.#wrong(key, radix === 8 ? 'It is an octal number.' : 'It is a number.');
  }

  /** Bytes, with the binary units of Docker. */
  size(key: string): number | undefined {
    const value = this.#values.get(key);
    if (value === undefined) return undefined;
    const match = /^([0-9]+(?:\.[0-9]+)?)\s*([kmgtp]?)(?:i?b)?$/i.exec(value);
    if (match === null) throw this.#wrong(key, 'Write it as 64m or 1g.');
    return Math.floor(Number(match[1]) * 1024 ** ' kmgtp'.indexOf((match[2] ?? '').toLowerCase() || ' '));
  }

  #wrong(key: string, remedy: string): ReturnType<typeof syntaxError> {
    return syntaxError(
      this.#place,
      `RUN --mount: "${this.#values.get(key) ?? ''}" is no value of ${key}`,
      remedy,
      this.#values.get(key),
    );
  }
}
