import { constants } from 'node:os';
import { posix } from 'node:path';
import { BuildError, hideCredentials } from '../src/support/index.ts';
import {
  heredocBody,
  type Command,
  type CopyInstruction,
  type Dockerfile,
  expandAt,
  expandHeredoc,
  expandWords,
  ExpansionError,
  type Heredoc,
  type HealthcheckInstruction,
  type Instruction,
  type Origin,
  parseTriggers,
  platformArguments,
  type ResolvedStage,
  type RunInstruction,
  type StageGraph,
} from '../src/dockerfile/index.ts';
import { healthText, plainList, quotedList } from './history-text.ts';
import { interpretCopy } from './interpret-copy.ts';
import { interpretRun } from './interpret-run.ts';
import { unsupported } from './unsupported.ts';
import { requireNoDirective, stepRule } from './step-directives.ts';
import { proxyArguments, type StageState } from './stage-state.ts';
import type { InterpretedStage, Operation, StageItem } from './steps.ts';
import type { Platform } from '../src/oci/index.ts';

/** Names the form of the history's texts, by which scanners know how to read them. */
const historyComment = 'buildkit.dockerfile.v0';

export interface InterpretOptions {
  readonly buildArguments: ReadonlyMap<string, string>;
  readonly platform: Platform;
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
    const triggers = parseTriggers(
      this.#state.onBuild,
      stage.from,
      this.#dockerfile.file,
      this.#dockerfile.escape,
    );
    this.#state.onBuild = [];
    const instructions = [...triggers, ...stage.instructions];
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
        id: `[${this.#stage.label} ${this.#number}/${this.#count}]`,
        line: instruction.line,
        where: this.#where(instruction.line),
        text,
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
        state.stopSignal = this.#signal(instruction);
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
        state.healthcheck = this.#healthcheck(instruction);
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
      platformArguments(this.#options.platform).get(name);
    this.#state.declare(name, value);
    return value === undefined ? name : `${name}=${value}`;
  }

  #signal(
    instruction: Extract<Instruction, { kind: 'workdir' | 'user' | 'stopsignal' | 'maintainer' }>,
  ): string {
    const signal = this.#expand(instruction, instruction.value);
    const name = signal.toUpperCase().replace(/^(?:SIG)?/, 'SIG');
    const known = /^[0-9]+$/.test(signal)
      ? Number(signal) >= 1 && Number(signal) <= 64
      : name in constants.signals || /^SIGRT(?:MIN(?:\+[0-9]+)?|MAX(?:-[0-9]+)?)$/.test(name);
    if (known) return signal;
    throw new BuildError(`"${signal}" is not a signal`, {
      code: 'E_DOCKERFILE_SYNTAX',
      where: this.#where(instruction.line),
      subject: instruction.value,
      remedy: 'Write STOPSIGNAL SIGTERM, or a number.',
    });
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
    const ports = words.flatMap((word) => this.#ports(instruction, word));
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

  /** The ports of `[[address:]host port:]port[-port][/protocol]`; only the container's own counts. */
  #ports(instruction: Instruction, word: string): string[] {
    const match =
      /^(?:(?:(?:\[[0-9a-f:.]+\]|[0-9.]*):)?[0-9]*(?:-[0-9]+)?:)?([0-9]{1,5})(?:-([0-9]{1,5}))?(?:\/(tcp|udp|sctp)?)?$/i.exec(
        word,
      );
    const from = Number(match?.[1] ?? NaN);
    const to = Number(match?.[2] ?? from);
    if (match === null || from > to || to > 65535)
      throw new BuildError(`"${word}" is not a port`, {
        code: 'E_DOCKERFILE_SYNTAX',
        where: this.#where(instruction.line),
        subject: word,
        remedy: 'Write EXPOSE 80, 80/udp or 8000-8010.',
      });
    const protocol = (match[3] ?? 'tcp').toLowerCase();
    return Array.from({ length: to - from + 1 }, (_, index) => `${from + index}/${protocol}`);
  }

  #healthcheck(instruction: HealthcheckInstruction): NonNullable<StageState['healthcheck']> {
    const { command, interval, timeout, startPeriod, startInterval, retries } = instruction;
    if (command === undefined) return { Test: ['NONE'] };
    return {
      Test: command.form === 'exec' ? ['CMD', ...command.command] : ['CMD-SHELL', command.command],
      ...(interval === undefined ? {} : { Interval: interval }),
      ...(timeout === undefined ? {} : { Timeout: timeout }),
      ...(startPeriod === undefined ? {} : { StartPeriod: startPeriod }),
      ...(startInterval === undefined ? {} : { StartInterval: startInterval }),
      ...(retries === undefined ? {} : { Retries: retries }),
    };
  }

  #run(instruction: RunInstruction): void {
    const { buildArguments, ignoredArguments, consumed } = this.#options;
    const { operation, text, createdBy } = interpretRun(instruction, {
      where: this.#where(instruction.line),
      file: this.#dockerfile.file,
      state: this.#state,
      sources: this.#stage.sources,
      buildArguments,
      ignoredArguments,
      expand: (word) => this.#expand(instruction, word),
    });
    for (const name of buildArguments.keys()) if (proxyArguments.has(name)) consumed.add(name);
    this.#step(instruction, operation, text, createdBy);
  }

  #copy(instruction: CopyInstruction): void {
    const origin: Origin | undefined = this.#stage.sources.get(instruction);
    if (instruction.from !== undefined && origin === undefined)
      throw unsupported(
        'COPY --from in an ONBUILD trigger',
        this.#where(instruction.line),
        'Write it in this Dockerfile.',
      );
    const { operation, text, createdBy } = interpretCopy(instruction, {
      where: this.#where(instruction.line),
      from: origin,
      workingDirectory: this.#state.workingDirectory,
      expand: (word) => this.#expand(instruction, word),
      textOf: (heredoc) => this.#heredocText(instruction, heredoc),
    });
    this.#step(instruction, operation, text, createdBy);
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
