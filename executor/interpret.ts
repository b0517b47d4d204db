import { posix } from 'node:path';
import { BuildError, hideCredentials } from '../src/support/index.ts';
import {
  chompBody,
  type Command,
  type CopyInstruction,
  type Dockerfile,
  expandAt,
  expandHeredoc,
  expandWords,
  ExpansionError,
  type Heredoc,
  type Instruction,
  type Origin,
  parseHeredocOpening,
  type ResolvedStage,
  type RunInstruction,
  type StageGraph,
} from '../src/dockerfile/index.ts';
import { healthText, plainList, quotedList, runText } from './history-text.ts';
import { interpretCopy } from './interpret-copy.ts';
import { healthOf, portsOf, requireSignal } from './interpret-values.ts';
import { requireNoDirective, stepRule } from './step-directives.ts';
import { proxyArguments, type StageState } from './stage-state.ts';
import type { InterpretedStage, Operation, StageItem } from './steps.ts';
import { formatPlatform, type Platform, platformMatches } from '../src/oci/index.ts';

/** Names the form of the history's texts, by which scanners know how to read them. */
const historyComment = 'buildkit.dockerfile.v0';

export interface InterpretOptions {
  readonly buildArguments: ReadonlyMap<string, string>;
  /** What is built for. */
  readonly platform: Platform;
  /** Several platforms are built, so that steps are told apart by theirs. */
  readonly isOneOfSeveral?: boolean | undefined;
  /** Names of build arguments that some ARG declared; added to. */
  readonly consumed: Set<string>;
  /** ARGs that count in no key. */
  readonly ignoredArguments: ReadonlySet<string>;
}

/**
 * Carries out all instructions of a stage that only set something, in order, and turns the others into steps. Everything
 * but the files is known afterwards, so that every key can be computed before anything runs.
 *
 * @throws BuildError for what only shows after expansion: bad modes, empty words, unknown variables' errors.
 */
export function interpretStage(
  dockerfile: Dockerfile,
  graph: StageGraph,
  stage: ResolvedStage,
  base: StageState,
  options: InterpretOptions,
): InterpretedStage {
  return new Interpreter(dockerfile, graph, stage, base, options).run();
}

/** How progress calls a stage: with several platforms `linux/arm64 app`, or `linux/amd64->linux/arm64 tools` in cross building. */
export function stageTitle(
  { label, platform }: Pick<ResolvedStage, 'label' | 'platform'>,
  { platform: target, isOneOfSeveral = false }: Pick<InterpretOptions, 'platform' | 'isOneOfSeveral'>,
): string {
  if (!isOneOfSeveral) return label;
  const purpose = platformMatches(platform, target) ? '' : `->${formatPlatform(target)}`;
  return `${formatPlatform(platform)}${purpose} ${label}`;
}

function unsupported(what: string, where: string, remedy = 'Rewrite the line without it.'): BuildError {
  return new BuildError(`${what} is not supported by this version`, {
    code: 'E_DOCKERFILE_UNSUPPORTED',
    where,
    remedy,
  });
}

function heredocBody({ content, chomp }: Heredoc): string {
  return chomp ? chompBody(content) : content;
}

class Interpreter {
  readonly #dockerfile: Dockerfile;
  readonly #graph: StageGraph;
  readonly #stage: ResolvedStage;
  readonly #state: StageState;
  readonly #options: InterpretOptions;
  readonly #items: StageItem[] = [];
  #count = 0;
  #number = 0;

  constructor(
    dockerfile: Dockerfile,
    graph: StageGraph,
    stage: ResolvedStage,
    state: StageState,
    options: InterpretOptions,
  ) {
    this.#dockerfile = dockerfile;
    this.#graph = graph;
    this.#stage = stage;
    this.#state = state;
    this.#options = options;
  }

  run(): InterpretedStage {
    const { stage } = this.#stage;
    const { instructions } = stage;
    // What the base left to be done here is among them.
    this.#state.onBuild = [];
    this.#count = instructions.length;
    requireNoDirective(stage.from, 'FROM', this.#where(stage.from.line));
    for (const argument of this.#dockerfile.metaArgs)
      requireNoDirective(argument, 'ARG', this.#where(argument.line));
    for (const instruction of instructions) {
      this.#number++;
      this.#apply(instruction);
    }
    return { items: this.#items, state: this.#state };
  }

  #where(line: number): string {
    return `${this.#dockerfile.file}:${line}`;
  }

  #expand(instruction: Instruction, word: string): string {
    return expandAt(this.#dockerfile, instruction.line, word, this.#state.lookup);
  }

  #metadata(createdBy: string): void {
    this.#items.push({
      kind: 'metadata',
      history: { created_by: createdBy, comment: historyComment, empty_layer: true },
    });
  }

  #step(instruction: Instruction, operation: Operation, text: string, createdBy: string): void {
    this.#items.push({
      kind: 'step',
      step: {
        id: `[${stageTitle(this.#stage, this.#options)} ${this.#number}/${this.#count}]`,
        line: instruction.line,
        where: this.#where(instruction.line),
        text: instruction.isTrigger === true ? `ONBUILD ${text}` : text,
        written: hideCredentials(instruction.original.replace(/\s+/g, ' ')),
        operation,
        rule: stepRule(instruction, this.#where(instruction.line)),
        history: { created_by: createdBy, comment: historyComment },
      },
    });
  }

  #apply(instruction: Instruction): void {
    const state = this.#state;
    if (!['run', 'copy', 'add', 'workdir'].includes(instruction.kind))
      requireNoDirective(instruction, instruction.word.toUpperCase(), this.#where(instruction.line));
    switch (instruction.kind) {
      case 'run':
        return this.#run(instruction);
      case 'copy':
      case 'add':
        return this.#copy(instruction);
      case 'env': {
        // All values are expanded before any is set (Dockerfile reference, "Environment replacement").
        const values = instruction.variables.map(
          ({ name, value }) => [this.#expand(instruction, name), this.#expand(instruction, value)] as const,
        );
        for (const [name, value] of values) state.setEnv(name, value);
        return this.#metadata(`ENV ${values.map(([name, value]) => `${name}=${value}`).join(' ')}`);
      }
      case 'label': {
        const labels = instruction.labels.map(
          ({ name, value }) => [this.#expand(instruction, name), this.#expand(instruction, value)] as const,
        );
        for (const [name, value] of labels) state.labels.set(name, value);
        return this.#metadata(`LABEL ${labels.map(([name, value]) => `${name}=${value}`).join(' ')}`);
      }
      case 'arg':
        return this.#metadata(
          `ARG ${instruction.arguments.map(({ name, value }) => this.#declare(instruction, name, value)).join(' ')}`,
        );
      case 'workdir':
        return this.#workdir(instruction);
      case 'user':
        state.user = this.#expand(instruction, instruction.value);
        return this.#metadata(`USER ${state.user}`);
      case 'stopsignal':
        state.stopSignal = requireSignal(
          this.#expand(instruction, instruction.value),
          this.#where(instruction.line),
          instruction.value,
        );
        return this.#metadata(`STOPSIGNAL ${state.stopSignal}`);
      case 'maintainer':
        state.author = instruction.value;
        return this.#metadata(`MAINTAINER ${instruction.value}`);
      case 'expose':
      case 'volume':
        return this.#words(instruction);
      case 'cmd':
        state.command = this.#command(instruction.command);
        state.commandSet = true;
        return this.#metadata(`CMD ${quotedList(state.command)}`);
      case 'entrypoint':
        state.entrypoint = this.#command(instruction.command);
        // An entrypoint takes away the command of the base, whose arguments were meant for another one.
        if (!state.commandSet) state.command = undefined;
        return this.#metadata(`ENTRYPOINT ${quotedList(state.entrypoint)}`);
      case 'shell':
        state.shell = instruction.words;
        return this.#metadata(`SHELL ${plainList(instruction.words)}`);
      case 'healthcheck':
        state.healthcheck = healthOf(instruction);
        return this.#metadata(`HEALTHCHECK ${healthText(state.healthcheck)}`);
      case 'onbuild':
        state.onBuild.push(instruction.trigger);
        return;
    }
  }

  /** @returns what the history says of it. */
  #declare(instruction: Instruction, name: string, fallback: string | undefined): string {
    const given = this.#options.buildArguments.get(name);
    if (given !== undefined) this.#options.consumed.add(name);
    const value =
      given ??
      (fallback === undefined ? undefined : this.#expand(instruction, fallback)) ??
      this.#graph.globals.get(name) ??
      this.#graph.automatic.get(name);
    this.#state.declare(name, value);
    return value === undefined ? name : `${name}=${value}`;
  }

  #command(command: Command): readonly string[] {
    return command.form === 'exec' ? command.command : this.#state.shellCommand(command.command);
  }

  #workdir(
    instruction: Extract<Instruction, { kind: 'workdir' | 'user' | 'stopsignal' | 'maintainer' }>,
  ): void {
    const text = this.#expand(instruction, instruction.value);
    if (text === '')
      throw new BuildError('WORKDIR names nothing', {
        code: 'E_DOCKERFILE_EXPANSION',
        where: this.#where(instruction.line),
      });
    const path = posix.resolve('/', this.#state.workingDirectory, text);
    this.#state.workingDirectory = path;
    this.#step(
      instruction,
      { kind: 'workdir', path, user: this.#state.user },
      `WORKDIR ${path}`,
      `WORKDIR ${path}`,
    );
  }

  #words(instruction: Extract<Instruction, { kind: 'expose' | 'volume' }>): void {
    const words = instruction.words.flatMap((word) => this.#expandWords(instruction, word));
    if (instruction.kind === 'volume') {
      for (const word of words) this.#state.volumes.add(word);
      return this.#metadata(`VOLUME ${plainList(words)}`);
    }
    const ports = words.flatMap((word) => portsOf(word, this.#where(instruction.line)));
    for (const port of ports) this.#state.ports.add(port);
    this.#metadata(`EXPOSE ${plainList(ports)}`);
  }

  #expandWords(instruction: Instruction, word: string): string[] {
    try {
      return expandWords(word, this.#state.lookup, this.#dockerfile.escape);
    } catch (error) {
      if (!(error instanceof ExpansionError)) throw error;
      throw new BuildError(error.message, {
        code: 'E_DOCKERFILE_EXPANSION',
        where: this.#where(instruction.line),
      });
    }
  }

  #run(instruction: RunInstruction): void {
    this.#requireSupportedRun(instruction);
    const state = this.#state;
    const argv =
      instruction.command.form === 'exec'
        ? instruction.command.command
        : state.shellCommand(this.#script(instruction));
    const env = state.stepEnvironment();
    const argumentNames = new Set([...state.arguments.keys()].filter((name) => !state.env.has(name)));
    const counts = (name: string): boolean =>
      !argumentNames.has(name) || !this.#options.ignoredArguments.has(name);
    const keyedEnv = Object.fromEntries(Object.entries(env).filter(([name]) => counts(name)));
    const proxies = [...this.#options.buildArguments].filter(([name]) => proxyArguments.has(name));
    for (const [name] of proxies) this.#options.consumed.add(name);
    const operation: Operation = {
      kind: 'run',
      argv,
      env: { ...Object.fromEntries(proxies), ...env },
      keyedEnv,
      argumentNames,
      user: state.user,
      workingDirectory: state.workingDirectory === '' ? '/' : state.workingDirectory,
    };
    const ran = runText(argv, state.arguments, state.lookup);
    this.#step(instruction, operation, instruction.original.replace(/\s+/g, ' '), `RUN ${ran} # buildkit`);
  }

  /** The text that the shell gets. A here-document alone is the script; with a command it is the command's input. */
  #script(instruction: RunInstruction): string {
    const { command, heredocs } = instruction;
    const text = command.form === 'shell' ? command.command : '';
    const [first] = heredocs;
    if (first === undefined) return text;
    if (parseHeredocOpening(text) === undefined)
      return `${text}\n${heredocs.map(({ name, content }) => `${content}${name}`).join('\n')}`;
    const body = heredocBody(first);
    if (body.startsWith('#!'))
      throw unsupported(
        'a here-document with an interpreter line (#!)',
        this.#where(instruction.line),
        `Name the interpreter: RUN <<${first.name} python3.`,
      );
    return body;
  }

  #copy(instruction: CopyInstruction): void {
    const origin: Origin | undefined = this.#stage.sources.get(instruction);
    const { operation, text, createdBy } = interpretCopy(instruction, {
      where: this.#where(instruction.line),
      from: origin,
      workingDirectory: this.#state.workingDirectory,
      expand: (word) => this.#expand(instruction, word),
      textOf: (heredoc) => this.#heredocText(instruction, heredoc),
    });
    this.#step(instruction, operation, text, createdBy);
  }

  /** Of RUN, what this version cannot do yet. */
  #requireSupportedRun({ line, mounts, network, security, devices }: RunInstruction): void {
    if (mounts.length > 0) throw unsupported('RUN --mount', this.#where(line));
    if (network !== 'default') throw unsupported(`RUN --network=${network}`, this.#where(line));
    if (security !== 'sandbox') throw unsupported(`RUN --security=${security}`, this.#where(line));
    if (devices.length > 0) throw unsupported('RUN --device', this.#where(line));
  }

  #heredocText(instruction: Instruction, heredoc: Heredoc): string {
    return heredoc.expand
      ? this.#guardExpansion(instruction, () => expandHeredoc(heredocBody(heredoc), this.#state.lookup).text)
      : heredocBody(heredoc);
  }

  #guardExpansion(instruction: Instruction, expand: () => string): string {
    try {
      return expand();
    } catch (error) {
      if (!(error instanceof ExpansionError)) throw error;
      throw new BuildError(error.message, {
        code: 'E_DOCKERFILE_EXPANSION',
        where: this.#where(instruction.line),
      });
    }
  }
}
