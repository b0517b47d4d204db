import { formatPlatform, parsePlatform, type Platform } from '../oci/index.ts';
import { KilnError } from '../support/index.ts';
import type { CheckContext, Report } from './check.ts';
import { expand, type Expansion, ExpansionError, type Lookup } from './expand.ts';
import { nearestWord } from './fields.ts';
import type { CopyInstruction, Dockerfile, Instruction, Stage } from './types.ts';

const secretName = /(?:^|_)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)/i;
const harmlessName = /(?:^|_)(?:public|file|version)(?:_|$)/i;

/** Checks the instructions of one stage, keeping account of its variables as a build would. */
export class StageCheck {
  readonly env: Map<string, string>;
  /** All ARGs in scope, with or without a value. */
  readonly #arguments: Map<string, string | undefined>;
  /** False when the base is not known, so that a variable may come from it. */
  readonly complete: boolean;
  workdirIsSet: boolean;
  shellIsSet: boolean;
  readonly #stage: Stage;
  readonly #context: CheckContext;
  readonly #globals: ReadonlyMap<string, string>;
  readonly #dockerfile: Dockerfile;
  readonly #report: Report;
  readonly #once = new Map<string, Instruction>();

  constructor(
    stage: Stage,
    parent: StageCheck | undefined,
    context: CheckContext,
    globals: ReadonlyMap<string, string>,
    dockerfile: Dockerfile,
    report: Report,
  ) {
    this.#stage = stage;
    this.#context = context;
    this.#globals = globals;
    this.#dockerfile = dockerfile;
    this.#report = report;
    const scratch = stage.from.image === 'scratch';
    const base = parent === undefined && !scratch ? context.baseOf(stage) : undefined;
    this.complete = parent?.complete ?? (scratch || base !== undefined);
    this.env = new Map(parent?.env ?? base?.env);
    this.#arguments = new Map(parent === undefined ? [] : parent.#arguments);
    if (!this.env.has('PATH')) this.env.set('PATH', '');
    this.workdirIsSet = parent?.workdirIsSet ?? false;
    this.shellIsSet = parent?.shellIsSet ?? base?.hasShell ?? false;
    if (base !== undefined) this.#checkPlatform(base.platform);
  }

  run(): void {
    for (const instruction of this.#stage.instructions) this.#check(instruction);
  }

  #checkPlatform(actual: Platform): void {
    const { from } = this.#stage;
    const text = from.platform === undefined ? undefined : this.#expand(from, from.platform)?.text;
    let wanted: Platform;
    try {
      wanted = text === undefined || text === '' ? this.#context.platform : parsePlatform(text);
    } catch (error) {
      if (error instanceof KilnError) return; // told when the stage is resolved
      throw error;
    }
    if (actual.os !== wanted.os || actual.architecture !== wanted.architecture)
      this.#report(
        'InvalidBaseImagePlatform',
        from,
        `${from.image} is an image for ${formatPlatform(actual)}, the stage is for ${formatPlatform(wanted)}`,
        from.image,
      );
  }

  readonly #lookup: Lookup = (name) => this.env.get(name) ?? this.#arguments.get(name);

  /** Expands a text of an instruction; names that nothing declares are reported. */
  #expand(
    at: Instruction | Stage['from'],
    text: string,
    options: { plainQuotes?: boolean } = {},
  ): Expansion | undefined {
    let expansion: Expansion;
    try {
      expansion = expand(text, at.kind === 'from' ? (name) => this.#globals.get(name) : this.#lookup, {
        escape: this.#dockerfile.escape,
        ...options,
      });
    } catch (error) {
      if (error instanceof ExpansionError) return undefined; // told when the stage is built
      throw error;
    }
    if (at.kind !== 'from')
      for (const name of expansion.unmatched) {
        if (!this.complete || this.#arguments.has(name)) continue;
        const near = nearestWord(name, [...this.env.keys(), ...this.#arguments.keys()]);
        const hint = near === undefined ? '' : ` (did you mean $${near}?)`;
        this.#report('UndefinedVar', at, `nothing defines $${name}${hint}`, name);
      }
    return expansion;
  }

  #check(instruction: Instruction): void {
    switch (instruction.kind) {
      case 'env':
        for (const { name, legacy } of instruction.variables) {
          if (legacy) this.#reportLegacy(instruction, 'ENV', name);
          this.#checkSecret(instruction, 'ENV', name);
        }
        // All values are expanded before any is set.
        for (const [name, value] of instruction.variables.map(
          (variable) => [variable.name, this.#expand(instruction, variable.value)?.text ?? ''] as const,
        ))
          this.env.set(name, value);
        return;
      case 'label':
        for (const { name, value, legacy } of instruction.labels) {
          if (legacy) this.#reportLegacy(instruction, 'LABEL', name);
          this.#expand(instruction, value);
        }
        return;
      case 'arg':
        return this.#checkArgument(instruction);
      case 'copy':
      case 'add':
        return this.#checkCopy(instruction);
      case 'workdir':
        return this.#checkWorkdir(instruction, instruction.value);
      case 'user':
      case 'stopsignal':
        this.#expand(instruction, instruction.value);
        return;
      case 'expose':
        for (const word of instruction.words)
          for (const port of this.#expand(instruction, word)?.words ?? []) this.#checkPort(instruction, port);
        return;
      case 'volume':
        for (const word of instruction.words) this.#expand(instruction, word);
        return;
      case 'maintainer':
        this.#report('MaintainerDeprecated', instruction, 'MAINTAINER is deprecated');
        return;
      case 'cmd':
      case 'entrypoint':
        this.#checkOnce(instruction, instruction.kind.toUpperCase());
        if (instruction.command.form === 'shell' && !this.shellIsSet)
          this.#report(
            'JSONArgsRecommended',
            instruction,
            `${instruction.kind.toUpperCase()} in shell form does not pass signals on to the command`,
          );
        return;
      case 'healthcheck':
        this.#checkOnce(instruction, 'HEALTHCHECK');
        return;
      case 'shell':
        // Whoever chooses a shell means the shell form.
        this.shellIsSet = true;
        return;
      case 'run':
      case 'onbuild':
        return;
    }
  }

  #reportLegacy(instruction: Instruction, word: string, name: string): void {
    this.#report(
      'LegacyKeyValueFormat',
      instruction,
      `${word} name value is the old form of ${word} name=value`,
      name,
    );
  }

  #checkSecret(instruction: Instruction, word: string, name: string): void {
    if (secretName.test(name) && !harmlessName.test(name))
      this.#report('SecretsUsedInArgOrEnv', instruction, `${word} ${name} looks like a secret`, name);
  }

  #checkArgument(instruction: Extract<Instruction, { kind: 'arg' }>): void {
    for (const { name, value } of instruction.arguments) {
      this.#checkSecret(instruction, 'ARG', name);
      const given = this.#context.buildArguments.get(name);
      const text =
        given ?? (value === undefined ? this.#globals.get(name) : this.#expand(instruction, value)?.text);
      this.#arguments.set(name, text);
    }
    const said = instruction.comments.at(-1)?.split(' ', 1)[0];
    const names = instruction.arguments.map(({ name }) => name);
    if (said !== undefined && !names.includes(said))
      this.#report(
        'InvalidDefinitionDescription',
        instruction,
        `the comment before ARG is no description of ${names.join(', ')}`,
      );
  }

  #checkCopy(instruction: CopyInstruction): void {
    const texts = [instruction.chown, instruction.chmod, instruction.checksum, instruction.destination];
    for (const text of texts) if (text !== undefined) this.#expand(instruction, text);
    for (const heredoc of instruction.heredocs)
      if (heredoc.expand) this.#expand(instruction, heredoc.content, { plainQuotes: true });
    for (const source of instruction.sources) {
      const path = this.#expand(instruction, source)?.text;
      if (path === undefined || instruction.from !== undefined || /^[a-z+]+:\/\//i.test(path)) continue;
      const relative = path.replace(/^(?:\.?\/)+|\/+$/g, '');
      if (relative !== '' && relative !== '.' && this.#context.isIgnored(relative))
        this.#report(
          'CopyIgnoredFile',
          instruction,
          `.dockerignore leaves out ${relative}, which is to be copied`,
          source,
        );
    }
  }

  #checkWorkdir(instruction: Instruction, value: string): void {
    const path = this.#expand(instruction, value)?.text ?? '';
    if (!path.startsWith('/') && !this.workdirIsSet)
      this.#report(
        'WorkdirRelativePath',
        instruction,
        `WORKDIR ${path} depends on the working directory of the base image`,
        value,
      );
    this.workdirIsSet = true;
  }

  #checkPort(instruction: Instruction, port: string): void {
    const protocol = port.split('/')[1] ?? '';
    if (protocol !== protocol.toLowerCase())
      this.#report('ExposeProtoCasing', instruction, `the protocol of ${port} has capitals`, port);
    if (port.includes(':'))
      this.#report(
        'ExposeInvalidFormat',
        instruction,
        `${port} names an address or a port of the host`,
        port,
      );
  }

  #checkOnce(instruction: Instruction, word: string): void {
    const earlier = this.#once.get(word);
    if (earlier !== undefined)
      this.#report(
        'MultipleInstructionsDisallowed',
        earlier,
        `only the last ${word} of the stage counts, in line ${instruction.line}`,
      );
    this.#once.set(word, instruction);
  }
}
