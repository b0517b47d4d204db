import { readFile } from 'node:fs/promises';
import type { Command, Option } from 'commander';
import type * as Yaml from 'yaml';
import type { Document, LineCounter, Node, Pair, Scalar } from 'yaml';
import { KilnError, messageOf, systemErrorCode, UsageError } from '../support/index.ts';
import { booleanFlag, isList, valueFlag } from './flags.ts';

/** Flags that a file cannot give. */
const notInFiles = ['config', 'print-config', 'version', 'help'];

/** `--config` and `--print-config`. */
export function configurationFlags(): Option[] {
  return [
    valueFlag('--config <file>', 'read flags from this YAML file, which those of the command line override'),
    booleanFlag(
      '--print-config',
      'print the flags that count, each with where it comes from, and end',
      false,
    ),
  ];
}

/**
 * Gives a command the flags of the file that `--config` names. What the command line says counts before the environment,
 * that before the file, and this before what a flag is without.
 *
 * @param siblings commands whose flags the file may have too, so that one file serves them all.
 * @returns the file's path; undefined when none is named.
 * @throws UsageError that names the file and the line.
 */
export async function readConfigurationFile(
  command: Command,
  siblings: readonly Command[],
): Promise<string | undefined> {
  const path = command.getOptionValue('config') as string | undefined;
  if (path === undefined) return undefined;
  const file = await FlagFile.read(path);
  const names = new Set([command, ...siblings].flatMap(({ options }) => options.map(nameOf)));
  for (const name of notInFiles) names.delete(name);
  for (const entry of file.entries()) {
    if (!names.has(entry.name)) throw await file.unknown(entry, [...names]);
    const option = command.options.find((one) => nameOf(one) === entry.name);
    if (option !== undefined) give(command, option, entry, file);
  }
  return path;
}

interface Entry {
  readonly name: string;
  readonly node: Node | null;
  readonly line: number;
}

/** A file with a value for each flag. */
class FlagFile {
  readonly path: string;
  readonly #document: Document;
  readonly #lines: LineCounter;
  readonly #isScalar: (node: unknown) => node is Scalar;
  readonly #yaml: typeof Yaml;

  private constructor(path: string, document: Document, lines: LineCounter, yaml: typeof Yaml) {
    this.path = path;
    this.#document = document;
    this.#lines = lines;
    this.#isScalar = yaml.isScalar;
    this.#yaml = yaml;
  }

  static async read(path: string): Promise<FlagFile> {
    const text = await readFile(path, 'utf8').catch((error: unknown) => {
      throw new UsageError(`the configuration ${path} cannot be read`, {
        code: 'E_CONFIG_UNREADABLE',
        cause: error,
        remedy: systemErrorCode(error) === 'ENOENT' ? 'Name another file with --config.' : undefined,
      });
    });
    const yaml = await import('yaml');
    const lines = new yaml.LineCounter();
    const document = yaml.parseDocument(text, { lineCounter: lines, prettyErrors: false });
    const file = new FlagFile(path, document, lines, yaml);
    const [error] = document.errors;
    if (error !== undefined)
      throw file.wrong(error.message.split('\n', 1)[0] ?? '', file.#lineAt(error.pos[0]));
    return file;
  }

  entries(): Entry[] {
    const { contents } = this.#document;
    if (contents === null) return [];
    if (!this.#yaml.isMap(contents))
      throw this.wrong(
        'the file is not a mapping of flags to values',
        1,
        'Write lines such as "cache: true".',
      );
    return contents.items.map((pair) => {
      const { key, value } = pair as Pair<Node, Node | null>;
      const line = this.#lineAt(key.range?.[0] ?? 0);
      if (!this.#isScalar(key) || typeof key.value !== 'string')
        throw this.wrong('a flag is not a plain word', line);
      return { name: key.value.replace(/^--/, ''), node: value, line };
    });
  }

  isCollection({ node }: Entry): boolean {
    return this.#yaml.isCollection(node);
  }

  /** The values of a flag, as they would stand on a command line. */
  textsOf({ name, node, line }: Entry): string[] {
    if (this.#yaml.isSeq(node)) return node.items.map((item) => this.#text(item as Node, name));
    if (this.#yaml.isMap(node))
      return node.items.map(({ key, value }) => `${this.#text(key, name)}=${this.#text(value, name)}`);
    if (node === null || (this.#isScalar(node) && node.value === null))
      throw this.wrong(`${name} has no value`, line);
    return [this.#text(node, name)];
  }

  #text(node: unknown, name: string): string {
    const value = this.#isScalar(node) ? node.value : undefined;
    const at = this.#lineAt((node as Node | null)?.range?.[0] ?? 0);
    if (typeof value === 'string' || typeof value === 'boolean') return String(value);
    // As it is written: 1.10 is not 1.1.
    if (typeof value === 'number') return (node as Scalar).source ?? String(value);
    throw this.wrong(`${name} has a value that is no text, number, true or false`, at);
  }

  wrong(message: string, line: number, remedy?: string): UsageError {
    return new UsageError(message, { code: 'E_CONFIG_INVALID', where: `${this.path}:${line}`, remedy });
  }

  async unknown({ name, line }: Entry, names: readonly string[]): Promise<UsageError> {
    if (notInFiles.includes(name))
      return this.wrong(`--${name} cannot be given in a file`, line, 'Give it on the command line.');
    const { nearestWord } = await import('../dockerfile/index.ts');
    const near = nearestWord(name, names);
    return this.wrong(
      `there is no flag --${name}`,
      line,
      near === undefined ? 'See --help for what there is.' : `Did you mean ${near}?`,
    );
  }

  #lineAt(offset: number): number {
    return this.#lines.linePos(offset).line;
  }
}

function nameOf(option: Option): string {
  return option.long?.slice(2) ?? '';
}

/** Sets a flag unless the command line or the environment did. */
function give(command: Command, option: Option, entry: Entry, file: FlagFile): void {
  const name = option.attributeName();
  const source = command.getOptionValueSource(name);
  const texts = file.textsOf(entry);
  if (!isList(option) && file.isCollection(entry))
    throw file.wrong(`${entry.name} takes one value`, entry.line, 'Write it without a list.');
  if (source === 'cli' || source === 'env') return;
  try {
    const parse = option.parseArg ?? ((value: string): unknown => value);
    const value = texts.reduce<unknown>(
      (previous, text) => parse(text, previous),
      isList(option) ? [] : undefined,
    );
    command.setOptionValueWithSource(name, value, 'config');
  } catch (error) {
    const { message, remedy } =
      error instanceof KilnError ? error : { message: messageOf(error), remedy: undefined };
    throw file.wrong(`${entry.name}: ${message}`, entry.line, remedy);
  }
}
