import { Ajv } from 'ajv';
import { LineCounter, parseDocument, type YAMLError } from 'yaml';
import { messageOf } from '../../src/support/index.ts';
import { formats } from './configuration-formats.ts';
import {
  ConfigurationError,
  FieldLocator,
  type FieldPath,
  type Problem,
  schemaProblem,
} from './configuration-problems.ts';
import { configurationSchema } from './configuration-schema.ts';

/** Fields that a schedule is written with. */
export interface ScheduleFields {
  readonly refresh?: string;
  readonly cron?: string;
}

export interface ImageFields extends ScheduleFields {
  readonly reference: string;
  readonly platforms?: readonly string[];
  readonly pin?: boolean;
  readonly pullSecret?: string;
}

export interface DockerfileFields extends ScheduleFields {
  readonly path: string;
  readonly buildArgs?: Readonly<Record<string, string>>;
  readonly platforms?: readonly string[];
  readonly pullSecret?: string;
}

export interface CacheRepositoryFields extends ScheduleFields {
  readonly repository: string;
  readonly newest?: number;
  readonly pullSecret?: string;
}

export interface RegistryFields {
  readonly host: string;
  readonly mirrors?: readonly string[];
  readonly fallback?: boolean;
  readonly insecure?: boolean;
  readonly skipTlsVerify?: boolean;
  readonly certificate?: string;
  readonly clientCertificate?: string;
  readonly clientKey?: string;
}

/** `warmer.yaml` as it is written, once it has been found valid. */
export interface ConfigurationDocument {
  readonly images?: readonly (string | ImageFields)[];
  readonly dockerfiles?: readonly DockerfileFields[];
  readonly cacheRepositories?: readonly CacheRepositoryFields[];
  readonly platforms?: readonly string[];
  readonly refresh?: string;
  readonly timeZone?: string;
  readonly pullSecret?: string;
  readonly registries?: readonly RegistryFields[];
  readonly disk?: Readonly<
    Partial<
      Record<
        'maxSize' | 'minFree' | 'highWaterMark' | 'lowWaterMark' | 'unusedFor' | 'keepOnDemand' | 'interval',
        string
      >
    >
  >;
  readonly recordHits?: { readonly repositories?: readonly string[]; readonly secret?: string };
  readonly onDemand?: {
    readonly enabled?: boolean;
    readonly allow?: readonly string[];
    readonly deny?: readonly string[];
    readonly concurrency?: number;
  };
  readonly adoption?: {
    readonly enabled?: boolean;
    readonly misses?: number;
    readonly window?: string;
    readonly limit?: number;
    readonly unusedFor?: string;
  };
  readonly concurrency?: { readonly images?: number; readonly layers?: number; readonly unpack?: number };
  readonly bandwidth?: string;
  readonly listen?: { readonly socket?: boolean; readonly http?: boolean | string };
  readonly firstRoundTimeout?: string;
}

/** Largest configuration that is read, in bytes; a ConfigMap cannot be larger either. */
const maximumSize = 1024 * 1024;

/** Checks of a valid document that a schema cannot express. */
export type DocumentCheck = (document: ConfigurationDocument, locator: FieldLocator) => readonly Problem[];

/**
 * Parses and validates the text of a `warmer.yaml`.
 *
 * @throws ConfigurationError with every mistake, by line and field.
 */
export function parseConfigurationDocument(
  path: string,
  text: string,
  checks: readonly DocumentCheck[],
): ConfigurationDocument {
  const fail = (problems: readonly Problem[]): ConfigurationError => new ConfigurationError(path, problems);
  if (Buffer.byteLength(text) > maximumSize)
    throw fail([
      { line: 1, field: '', message: `it is larger than ${maximumSize} bytes`, remedy: undefined },
    ]);
  const lines = new LineCounter();
  const yaml = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const syntax = [...yaml.errors, ...yaml.warnings];
  if (syntax.length > 0) throw fail(syntax.map((error) => syntaxProblem(error, lines)));
  const locator = new FieldLocator(yaml, lines);
  let value: unknown;
  try {
    value = yaml.toJS();
  } catch (error) {
    // Such as an alias that stands for millions of nodes.
    throw fail([locator.problem([], messageOf(error))]);
  }
  // An editor or a tool that writes in two steps leaves an empty file for a moment; it must not switch everything off.
  if (value === null || value === undefined)
    throw fail([locator.problem([], 'it is empty', 'Write {} for a daemon that warms nothing by itself.')]);
  const variables = variableProblems(value, [], locator);
  const others = schemaProblems(value, locator).filter(
    ({ field }) => !variables.some((variable) => variable.field === field),
  );
  const problems = [...variables, ...others];
  if (problems.length > 0) throw fail(problems);
  const document = value as ConfigurationDocument;
  const mistakes = checks.flatMap((check) => check(document, locator));
  if (mistakes.length > 0) throw fail(mistakes);
  return document;
}

function syntaxProblem(error: YAMLError, lines: LineCounter): Problem {
  return {
    line: lines.linePos(error.pos[0]).line,
    field: '',
    message: `it is not YAML: ${error.message}`,
    remedy: undefined,
  };
}

function schemaProblems(value: unknown, locator: FieldLocator): Problem[] {
  const validator = new Ajv({ allErrors: true, verbose: true, allowUnionTypes: true });
  for (const [name, parse] of Object.entries(formats))
    validator.addFormat(name, (text) => parses(parse, text));
  const validate = validator.compile(configurationSchema);
  if (validate(value)) return [];
  return (validate.errors ?? []).map((error) => schemaProblem(locator, error));
}

function parses(parse: (text: string) => unknown, text: string): boolean {
  try {
    parse(text);
    return true;
  } catch {
    return false; // formatProblem asks again for the words
  }
}

/** Variables are not expanded, so one that is written is a mistake wherever it has no meaning of its own. */
function variableProblems(value: unknown, path: FieldPath, locator: FieldLocator): Problem[] {
  if (path.at(-1) === 'buildArgs') return [];
  if (typeof value === 'string' && /\$\{?[A-Za-z_]/.test(value))
    return [
      locator.problem(
        path,
        `variables such as in "${value}" are not expanded here`,
        'Write the value itself.',
      ),
    ];
  if (Array.isArray(value))
    return value.flatMap((item: unknown, position) => variableProblems(item, [...path, position], locator));
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([name, member]) =>
    variableProblems(member, [...path, name], locator),
  );
}
