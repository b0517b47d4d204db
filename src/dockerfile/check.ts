import { KilnError, UsageError } from '../support/index.ts';
import { parseReference, type Platform } from '../oci/index.ts';
import {
  type CheckOptions,
  defaultCheckOptions,
  isChecked,
  mergeCheckOptions,
  parseCheckOptions,
} from './check-options.ts';
import { StageCheck } from './check-stage.ts';
import { excerptOf } from './excerpt.ts';
import { expand, ExpansionError, type Lookup } from './expand.ts';
import { nearestWord } from './fields.ts';
import { type CheckName, checkRules, rulePage } from './rules.ts';
import { automaticArguments } from './stages.ts';
import type { Dockerfile, FromInstruction, Instruction, Stage } from './types.ts';

/** Something that a build check found. */
export interface Finding {
  readonly rule: CheckName;
  readonly message: string;
  readonly remedy: string;
  /** The page that explains the rule. */
  readonly page: string;
  readonly line: number;
  readonly endLine: number;
  /** The line with a mark under what is meant. */
  readonly excerpt: string;
}

/** What is known of a stage's base image. */
export interface BaseFacts {
  readonly env: ReadonlyMap<string, string>;
  /** Whether its configuration has a SHELL. */
  readonly hasShell: boolean;
  readonly platform: Platform;
}

export interface CheckContext {
  readonly buildArguments: ReadonlyMap<string, string>;
  readonly platform: Platform;
  /** What is known of the image that a stage starts from; undefined when nothing is, and then less is checked. */
  readonly baseOf: (stage: Stage) => BaseFacts | undefined;
  /** Whether `.dockerignore` leaves a path of the context out for certain. */
  readonly isIgnored: (path: string) => boolean;
  /** Indexes of the stages that are looked at; all when it is not given. */
  readonly stages?: ReadonlySet<number> | undefined;
}

/** Findings, and whether the Dockerfile wants them to fail the build. */
export interface CheckResult {
  readonly findings: readonly Finding[];
  readonly error: boolean;
}

/**
 * Runs BuildKit's build checks over all stages of a Dockerfile that has been parsed.
 *
 * @throws UsageError `E_CHECK_OPTION` for a `# check` directive that cannot be understood.
 */
export function checkDockerfile(dockerfile: Dockerfile, context: CheckContext): CheckResult {
  const checker = new Checker(dockerfile, context);
  checker.run();
  return { findings: checker.findings(), error: checker.options.error };
}

/** Where a check reports to. @param subject the word of the instruction that is meant, to be marked. */
export type Report = (
  rule: CheckName,
  at: Pick<Instruction, 'line' | 'endLine' | 'comments'>,
  message: string,
  subject?: string,
) => void;

class Checker {
  readonly options: CheckOptions;
  readonly #dockerfile: Dockerfile;
  readonly #context: CheckContext;
  readonly #findings: Finding[] = [];

  constructor(dockerfile: Dockerfile, context: CheckContext) {
    this.#dockerfile = dockerfile;
    this.#context = context;
    const { check, file } = dockerfile;
    this.options =
      check === undefined ? defaultCheckOptions : parseCheckOptions(check.text, `${file}:${check.line}`);
  }

  /** In the order of lines, each once. */
  findings(): Finding[] {
    const unique = new Map(
      this.#findings
        .filter(({ line }) => this.#isLookedAt(line))
        .map((found) => [`${found.rule} ${found.line} ${found.message}`, found]),
    );
    return [...unique.values()].sort((a, b) => a.line - b.line);
  }

  /** Whether a line belongs to a stage that is looked at; what is before the first stage belongs to all. */
  #isLookedAt(line: number): boolean {
    const stage = this.#dockerfile.stages.findLast(({ from }) => from.line <= line);
    return stage === undefined || (this.#context.stages?.has(stage.index) ?? true);
  }

  run(): void {
    const { stages, emptyContinuations } = this.#dockerfile;
    for (const line of emptyContinuations)
      this.#report('NoEmptyContinuation', { line, endLine: line, comments: [] }, 'empty continuation line');
    this.#checkCasing();
    this.#checkStageNames();
    this.#checkDefaults();
    const checked = new Map<string, StageCheck>();
    const globals = this.#globals(this.#context.buildArguments);
    for (const stage of stages) {
      this.#checkFrom(stage, globals);
      const name = this.#expandQuietly(stage.from.image, globals)?.toLowerCase();
      const parent = name === undefined ? undefined : checked.get(name);
      const check = new StageCheck(stage, parent, this.#context, globals, this.#dockerfile, this.#report);
      check.run();
      if (stage.name !== undefined) checked.set(stage.name, check);
    }
  }

  readonly #report: Report = (rule, at, message, subject) => {
    if (!isChecked(rule, this.#optionsAt(at))) return;
    const { line, endLine } = at;
    const { remedy } = checkRules[rule];
    const excerpt = excerptOf(this.#dockerfile.source, line, subject);
    this.#findings.push({ rule, message, remedy, page: rulePage(rule), line, endLine, excerpt });
  };

  /** A comment `# check=skip=…` right before an instruction counts for it. */
  #optionsAt({ comments, line }: Pick<Instruction, 'line' | 'comments'>): CheckOptions {
    const text = comments
      .map((comment) => /^check\s*=\s*(\S+)/i.exec(comment)?.[1])
      .find((said) => said !== undefined);
    if (text === undefined) return this.options;
    return mergeCheckOptions(this.options, parseCheckOptions(text, `${this.#dockerfile.file}:${line}`));
  }

  #checkCasing(): void {
    const { stages } = this.#dockerfile;
    const all: (Instruction | FromInstruction)[] = stages.flatMap(({ from, instructions }) => [
      from,
      ...instructions,
    ]);
    const lower = all.filter(({ word }) => word === word.toLowerCase()).length;
    const upper = all.filter(({ word }) => word === word.toUpperCase()).length;
    const wanted = lower > upper ? 'small letters' : 'capitals';
    for (const instruction of all) {
      const { word } = instruction;
      if (word !== (lower > upper ? word.toLowerCase() : word.toUpperCase()))
        this.#report(
          'ConsistentInstructionCasing',
          instruction,
          `${word} is not in ${wanted}, as most instructions of the file are`,
          word,
        );
    }
  }

  #checkStageNames(): void {
    const seen = new Set<string>();
    for (const { name, from } of this.#dockerfile.stages) {
      if (name === undefined) continue;
      const [as, written] = from.as ?? ['', ''];
      if (name === 'context' || name === 'scratch')
        this.#report('ReservedStageName', from, `the stage name ${name} is reserved`, ` ${written}`);
      if (seen.has(name))
        this.#report('DuplicateStageName', from, `another stage is named ${name} too`, ` ${written}`);
      seen.add(name);
      if (written !== written.toLowerCase())
        this.#report('StageNameCasing', from, `the stage name ${written} has capitals`, ` ${written}`);
      const { word } = from;
      const mixed = word !== word.toLowerCase() && word !== word.toUpperCase();
      if (!mixed && as !== (word === word.toLowerCase() ? as.toLowerCase() : as.toUpperCase()))
        this.#report('FromAsCasing', from, `${word} and ${as} are not in the same case`, as);
      this.#checkDescription('FROM', [name], from);
    }
  }

  #checkDescription(instruction: string, names: readonly string[], at: Instruction | FromInstruction): void {
    const said = at.comments.at(-1);
    if (said === undefined || names.includes(said.split(' ', 1)[0] ?? '')) return;
    this.#report(
      'InvalidDefinitionDescription',
      at,
      `the comment before ${instruction} is no description of ${names.join(', ')}`,
    );
  }

  /** Every FROM must name an image also when no build argument is given. */
  #checkDefaults(): void {
    const defaults = this.#globals(new Map());
    for (const { from } of this.#dockerfile.stages) {
      const name = this.#expandQuietly(from.image, defaults);
      if (name === undefined || (name !== '' && isReference(name))) continue;
      this.#report(
        'InvalidDefaultArgInFrom',
        from,
        `with the defaults of its ARGs, ${from.image} names no image`,
        from.image,
      );
    }
    for (const arg of this.#dockerfile.metaArgs)
      this.#checkDescription(
        'ARG',
        arg.arguments.map(({ name }) => name),
        arg,
      );
  }

  /** Values of the ARGs before the first FROM. What cannot be expanded is told when the file is built. */
  #globals(given: ReadonlyMap<string, string>): ReadonlyMap<string, string> {
    const values = automaticArguments(this.#context.platform);
    const declared = new Map(values);
    for (const { arguments: entries } of this.#dockerfile.metaArgs)
      for (const { name, value } of entries) {
        const text =
          given.get(name) ?? (value === undefined ? undefined : this.#expandQuietly(value, declared));
        if (text !== undefined) declared.set(name, text);
      }
    return declared;
  }

  #checkFrom({ from }: Stage, globals: ReadonlyMap<string, string>): void {
    this.#checkNames(from, from.image, globals);
    if (from.platform === undefined) return;
    this.#checkNames(from, from.platform, globals);
    const platform = this.#expansion(from.platform, globals);
    if (platform === undefined) return;
    const { matched, unmatched, text } = platform;
    if (matched.size === 1 && matched.has('TARGETPLATFORM') && text === globals.get('TARGETPLATFORM'))
      this.#report(
        'RedundantTargetPlatform',
        from,
        `--platform=${from.platform} is what is built for anyway`,
        `--platform=${from.platform}`,
      );
    const [os = '', architecture = ''] = text.split('/');
    const named = [os, architecture].some((part) => part !== '' && from.alias?.includes(part) === true);
    if (matched.size === 0 && unmatched.size === 0 && !named)
      this.#report(
        'FromPlatformFlagConstDisallowed',
        from,
        `--platform=${text} is always the same, whatever is built for`,
        `--platform=${from.platform}`,
      );
  }

  #checkNames(from: FromInstruction, text: string, globals: ReadonlyMap<string, string>): void {
    const declared = new Set(
      this.#dockerfile.metaArgs.flatMap(({ arguments: entries }) => entries.map(({ name }) => name)),
    );
    for (const name of this.#expansion(text, globals)?.unmatched ?? []) {
      if (declared.has(name)) continue;
      const near = nearestWord(name, [...globals.keys(), ...declared]);
      const hint = near === undefined ? '' : ` (did you mean ${near}?)`;
      this.#report('UndefinedArgInFrom', from, `no ARG before the first FROM declares ${name}${hint}`, name);
    }
  }

  #expansion(text: string, values: ReadonlyMap<string, string>): ReturnType<typeof expand> | undefined {
    const lookup: Lookup = (name) => values.get(name);
    try {
      return expand(text, lookup, { escape: this.#dockerfile.escape });
    } catch (error) {
      if (error instanceof ExpansionError) return undefined;
      throw error;
    }
  }

  #expandQuietly(text: string, values: ReadonlyMap<string, string>): string | undefined {
    return this.#expansion(text, values)?.text;
  }
}

function isReference(name: string): boolean {
  try {
    parseReference(name);
    return true;
  } catch (error) {
    if (error instanceof KilnError || error instanceof UsageError) return false;
    throw error;
  }
}
