import type { ErrorObject } from 'ajv';
import { isMap, isScalar, isSeq, type Document, type LineCounter, type Node, type Pair } from 'yaml';
import { nearestWord } from '../../src/dockerfile/index.ts';
import { KilnError, messageOf, UsageError } from '../../src/support/index.ts';
import { formats } from './configuration-formats.ts';

/** One mistake in a configuration. */
export interface Problem {
  /** From 1 on. */
  readonly line: number;
  /** As `images[0].refresh`; empty for the file as a whole. */
  readonly field: string;
  readonly message: string;
  readonly remedy: string | undefined;
}

/** A configuration that is not valid, with every mistake in it. */
export class ConfigurationError extends UsageError {
  override readonly name = 'ConfigurationError';
  readonly problems: readonly Problem[];

  constructor(path: string, problems: readonly Problem[]) {
    const sorted = problems.toSorted((a, b) => a.line - b.line);
    const count = sorted.length === 1 ? 'a mistake' : `${sorted.length} mistakes`;
    super([`${path} has ${count}`, ...sorted.map((problem) => describeProblem(path, problem))].join('\n  '), {
      code: 'E_CONFIGURATION',
      where: path,
    });
    this.problems = sorted;
  }
}

function describeProblem(path: string, { line, field, message, remedy }: Problem): string {
  const place = field === '' ? '' : ` ${field}:`;
  return `${path}:${line}:${place} ${message}${remedy === undefined ? '' : `. ${remedy}`}`;
}

/** Members of maps and positions of lists, from the top. */
export type FieldPath = readonly (string | number)[];

/** Finds the lines of fields in a YAML document. */
export class FieldLocator {
  readonly #document: Document;
  readonly #lines: LineCounter;

  constructor(document: Document, lines: LineCounter) {
    this.#document = document;
    this.#lines = lines;
  }

  /** The problem at a field; a field that is not there is placed at what it should be in. */
  problem(path: FieldPath, message: string, remedy?: string): Problem {
    return { line: this.#line(path), field: formatField(path), message, remedy };
  }

  #line(path: FieldPath): number {
    let node: unknown = this.#document.contents;
    let offset = offsetOf(node) ?? 0;
    for (const step of path) {
      if (isMap(node)) {
        const pair: Pair | undefined = node.items.find(
          ({ key }) => isScalar(key) && String(key.value) === step,
        );
        if (pair === undefined) break;
        offset = offsetOf(pair.key) ?? offset;
        node = pair.value;
      } else if (isSeq(node)) {
        node = node.items[Number(step)];
        offset = offsetOf(node) ?? offset;
      } else break;
    }
    return this.#lines.linePos(offset).line;
  }
}

function offsetOf(node: unknown): number | undefined {
  return (node as Node | null | undefined)?.range?.[0];
}

/** `images[0].refresh`. */
export function formatField(path: FieldPath): string {
  return path
    .map((step, position) => (typeof step === 'number' ? `[${step}]` : position === 0 ? step : `.${step}`))
    .join('');
}

/** What the validator found, in words for a person. */
export function schemaProblem(locator: FieldLocator, error: ErrorObject): Problem {
  const path = pathOf(error.instancePath);
  const parameters = error.params as Readonly<Record<string, unknown>>;
  switch (error.keyword) {
    case 'additionalProperties': {
      const name = String(parameters.additionalProperty);
      const known = Object.keys((error.parentSchema as { properties?: object }).properties ?? {});
      const near = nearestWord(name, known);
      const remedy = near === undefined ? `There are: ${known.join(', ')}` : `Did you mean ${near}?`;
      return locator.problem([...path, name], 'there is no such field', remedy);
    }
    case 'required':
      return locator.problem(path, `the field ${String(parameters.missingProperty)} is missing`);
    case 'type': {
      const wanted = typeNames([parameters.type].flat() as string[]);
      return locator.problem(path, `it must be ${wanted}${quoted(error.data)}`);
    }
    case 'format':
      return formatProblem(locator, path, String(parameters.format), String(error.data));
    case 'minimum':
    case 'maximum': {
      const { minimum, maximum } = error.parentSchema as { minimum?: number; maximum?: number };
      return locator.problem(
        path,
        `it must be from ${minimum ?? 0} to ${maximum ?? 'any number'}${quoted(error.data)}`,
      );
    }
    case 'minItems':
      return locator.problem(path, 'the list is empty', 'Leave the field out for its default.');
    default:
      return locator.problem(path, error.message ?? error.keyword);
  }
}

function formatProblem(locator: FieldLocator, path: FieldPath, format: string, text: string): Problem {
  try {
    formats[format]?.(text);
  } catch (error) {
    return locator.problem(path, messageOf(error), error instanceof KilnError ? error.remedy : undefined);
  }
  return locator.problem(path, `"${text}" cannot be read as ${format}`);
}

/** A JSON pointer (RFC 6901) as steps; what is a number in it is a position of a list, for no field is called so. */
function pathOf(pointer: string): (string | number)[] {
  return pointer
    .split('/')
    .slice(1)
    .map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~'))
    .map((step) => (/^[0-9]+$/.test(step) ? Number(step) : step));
}

function typeNames(types: readonly string[]): string {
  const names: Readonly<Record<string, string>> = {
    string: 'a text',
    object: 'a map of fields',
    array: 'a list',
    boolean: 'true or false',
    integer: 'a whole number',
  };
  return types.map((type) => names[type] ?? type).join(' or ');
}

function quoted(value: unknown): string {
  if (value === null) return ', not empty';
  return typeof value === 'object' ? '' : `, not ${JSON.stringify(value)}`;
}
