import type { LogicalLine } from './lines.ts';
import {
  jsonWords,
  nearestWord,
  parseCommand,
  parseDuration,
  type Place,
  splitWords,
  syntaxError,
  takeFlags,
  unsupported,
} from './fields.ts';
import type { Assignment, FromInstruction, HealthcheckInstruction, Instruction } from './types.ts';

interface Source extends Place {
  readonly line: number;
  readonly endLine: number;
  readonly original: string;
  readonly rest: string;
  readonly escape: string;
  readonly heredocs: LogicalLine['heredocs'];
}

type Parser = (source: Source) => Instruction | FromInstruction;

const parsers: Readonly<Record<string, Parser>> = {
  FROM: parseFrom,
  RUN: parseRun,
  COPY: (source) => parseCopy(source, 'copy'),
  ADD: (source) => parseCopy(source, 'add'),
  ENV: (source) => ({ kind: 'env', ...located(source), variables: parseAssignments(source, 'ENV') }),
  LABEL: (source) => ({ kind: 'label', ...located(source), labels: parseAssignments(source, 'LABEL') }),
  ARG: parseArg,
  WORKDIR: (source) => ({ kind: 'workdir', ...located(source), value: source.rest }),
  USER: (source) => ({ kind: 'user', ...located(source), value: singleWord(source, 'USER') }),
  STOPSIGNAL: (source) => ({
    kind: 'stopsignal',
    ...located(source),
    value: singleWord(source, 'STOPSIGNAL'),
  }),
  MAINTAINER: (source) => ({ kind: 'maintainer', ...located(source), value: source.rest }),
  EXPOSE: (source) => ({ kind: 'expose', ...located(source), words: splitWords(source.rest, source.escape) }),
  VOLUME: (source) => ({
    kind: 'volume',
    ...located(source),
    words: jsonWords(source.rest) ?? splitWords(source.rest, source.escape),
  }),
  CMD: (source) => ({ kind: 'cmd', ...located(source), command: parseCommand(source.rest) }),
  ENTRYPOINT: (source) => ({ kind: 'entrypoint', ...located(source), command: parseCommand(source.rest) }),
  SHELL: parseShell,
  HEALTHCHECK: parseHealthcheck,
  ONBUILD: parseOnBuild,
};

const mayBeEmpty = new Set(['CMD', 'ENTRYPOINT', 'HEALTHCHECK']);

/**
 * Parses one instruction.
 *
 * @throws BuildError `E_DOCKERFILE_*` naming file and line.
 */
export function parseInstruction(
  line: LogicalLine,
  file: string,
  escape: string,
): Instruction | FromInstruction {
  const match = /^(\S+)(?:\s+([\s\S]*))?$/.exec(line.text);
  const word = (match?.[1] ?? '').toUpperCase();
  const rest = (match?.[2] ?? '').trim();
  const place: Place = { file, line: line.line };
  const parser = Object.hasOwn(parsers, word) ? parsers[word] : undefined;
  if (parser === undefined) {
    const near = nearestWord(word, Object.keys(parsers));
    throw syntaxError(
      place,
      `unknown instruction ${word}`,
      near === undefined ? undefined : `Did you mean ${near}?`,
    );
  }
  if (rest === '' && !mayBeEmpty.has(word)) throw syntaxError(place, `${word} needs an argument`);
  return parser({
    ...place,
    endLine: line.endLine,
    original: line.text,
    rest,
    escape,
    heredocs: line.heredocs,
  });
}

function located(source: Source): { line: number; endLine: number; original: string } {
  return { line: source.line, endLine: source.endLine, original: source.original };
}

/** Refuses flags that the instruction does not have, and names those that this version lacks. */
function checkFlags(
  source: Source,
  flags: ReadonlyMap<string, string>,
  word: string,
  known: readonly string[],
  lacking: readonly string[],
): void {
  for (const [name, value] of flags) {
    if (lacking.includes(name)) throw unsupported(source, `${word} --${name}`);
    if (!known.includes(name)) {
      const near = nearestWord(name, [...known, ...lacking]);
      throw syntaxError(
        source,
        `${word} has no flag --${name}`,
        near === undefined ? undefined : `Did you mean --${near}?`,
      );
    }
    if (value === '') throw syntaxError(source, `${word} --${name} needs a value`);
  }
}

function parseFrom(source: Source): FromInstruction {
  const { flags, rest } = takeFlags(source.rest);
  checkFlags(source, flags, 'FROM', ['platform'], []);
  const words = splitWords(rest, source.escape);
  const [image, as, alias] = words;
  if (image === undefined || !(words.length === 1 || (words.length === 3 && as?.toLowerCase() === 'as')))
    throw syntaxError(
      source,
      'FROM takes an image, and optionally AS and a stage name',
      'Write FROM image [AS name].',
    );
  const name = alias?.toLowerCase();
  if (name !== undefined && !/^[a-z][a-z0-9_.-]*$/.test(name))
    throw syntaxError(
      source,
      `invalid stage name "${alias ?? ''}"`,
      'Stage names start with a letter and have letters, digits, and _ . - only.',
    );
  return { kind: 'from', ...located(source), image, alias: name, platform: flags.get('platform') };
}

function parseRun(source: Source): Instruction {
  const { flags, rest } = takeFlags(source.rest);
  checkFlags(source, flags, 'RUN', [], ['mount', 'network', 'security', 'device']);
  if (rest === '') throw syntaxError(source, 'RUN needs a command');
  const command =
    source.heredocs.length > 0 ? ({ form: 'shell', command: rest } as const) : parseCommand(rest);
  if (command.form === 'exec' && command.command.length === 0)
    throw syntaxError(source, 'RUN needs a command');
  return { kind: 'run', ...located(source), command, heredocs: source.heredocs };
}

function parseCopy(source: Source, kind: 'copy' | 'add'): Instruction {
  const word = kind.toUpperCase();
  const { flags, rest } = takeFlags(source.rest);
  const common = ['chown', 'chmod'];
  if (kind === 'copy') checkFlags(source, flags, word, [...common, 'from'], ['link', 'parents', 'exclude']);
  else checkFlags(source, flags, word, common, ['link', 'exclude', 'checksum', 'keep-git-dir', 'unpack']);
  const all = (source.heredocs.length > 0 ? undefined : jsonWords(rest)) ?? splitWords(rest, source.escape);
  const destination = all.at(-1);
  if (destination === undefined || all.length < 2)
    throw syntaxError(
      source,
      `${word} needs at least one source and a destination`,
      `Write ${word} source… destination.`,
    );
  const sources = all.slice(0, -1).filter((entry) => !(source.heredocs.length > 0 && entry.startsWith('<<')));
  const remote = kind === 'add' && sources.find((entry) => /^(?:https?|git|ssh):\/\/|^git@/i.test(entry));
  if (typeof remote === 'string') throw unsupported(source, `ADD from ${remote}`);
  return {
    kind,
    ...located(source),
    sources,
    heredocs: source.heredocs,
    destination,
    from: flags.get('from'),
    chown: flags.get('chown'),
    chmod: flags.get('chmod'),
  };
}

function parseAssignments(source: Source, word: string): Assignment[] {
  const words = splitWords(source.rest, source.escape);
  const first = words[0] ?? '';
  if (!first.includes('=')) {
    // The old form: everything after the first word is the value.
    const value = source.rest.slice(first.length).trim();
    if (value === '')
      throw syntaxError(source, `${word} ${first} has no value`, `Write ${word} ${first}=value.`);
    return [{ name: first, value }];
  }
  return words.map((entry) => {
    const equals = entry.indexOf('=');
    if (equals <= 0)
      throw syntaxError(
        source,
        `"${entry}" is not of the form name=value`,
        'Put values with spaces in quotes.',
      );
    return { name: entry.slice(0, equals), value: entry.slice(equals + 1) };
  });
}

function parseArg(source: Source): Instruction {
  const entries = splitWords(source.rest, source.escape).map((entry) => {
    const equals = entry.indexOf('=');
    const name = equals < 0 ? entry : entry.slice(0, equals);
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name))
      throw syntaxError(source, `"${name}" cannot be the name of an ARG`);
    return { name, value: equals < 0 ? undefined : entry.slice(equals + 1) };
  });
  return { kind: 'arg', ...located(source), arguments: entries };
}

function singleWord(source: Source, word: string): string {
  if (splitWords(source.rest, source.escape).length !== 1)
    throw syntaxError(source, `${word} takes one argument`);
  return source.rest;
}

function parseShell(source: Source): Instruction {
  const words = jsonWords(source.rest);
  if (words === undefined || words.length === 0)
    throw syntaxError(source, 'SHELL takes a JSON list', 'Write SHELL ["/bin/bash", "-c"].');
  return { kind: 'shell', ...located(source), words };
}

function parseHealthcheck(source: Source): HealthcheckInstruction {
  const { flags, rest } = takeFlags(source.rest);
  checkFlags(
    source,
    flags,
    'HEALTHCHECK',
    ['interval', 'timeout', 'start-period', 'start-interval', 'retries'],
    [],
  );
  const [type = '', ...others] = splitWords(rest, source.escape);
  if (type.toUpperCase() === 'NONE') {
    if (others.length > 0) throw syntaxError(source, 'HEALTHCHECK NONE takes nothing else');
    return { kind: 'healthcheck', ...located(source), command: undefined };
  }
  const command = rest.slice(type.length).trim();
  if (type.toUpperCase() !== 'CMD' || command === '')
    throw syntaxError(source, 'HEALTHCHECK takes NONE, or CMD and a command');
  const duration = (flag: string): number | undefined => {
    const text = flags.get(flag);
    if (text === undefined) return undefined;
    const value = parseDuration(text);
    if (value === undefined || (value !== 0 && value < 1e6))
      throw syntaxError(source, `"${text}" is not a duration of at least 1ms`, `Write --${flag}=30s.`);
    return value;
  };
  const retries = flags.get('retries');
  if (retries !== undefined && !/^[0-9]+$/.test(retries))
    throw syntaxError(source, `"${retries}" is not a number of retries`);
  const optional = {
    interval: duration('interval'),
    timeout: duration('timeout'),
    startPeriod: duration('start-period'),
    startInterval: duration('start-interval'),
    retries: retries === undefined ? undefined : Number(retries),
  };
  const given = Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== undefined));
  return { kind: 'healthcheck', ...located(source), command: parseCommand(command), ...given };
}

function parseOnBuild(source: Source): Instruction {
  const word = (source.rest.split(/\s/, 1)[0] ?? '').toUpperCase();
  if (['ONBUILD', 'FROM', 'MAINTAINER'].includes(word))
    throw syntaxError(source, `${word} cannot be a trigger of ONBUILD`);
  const bodies = source.heredocs.map((heredoc) => `\n${heredoc.content}${heredoc.name}`).join('');
  parseInstruction(
    { text: source.rest, line: source.line, endLine: source.endLine, heredocs: source.heredocs },
    source.file,
    source.escape,
  );
  return { kind: 'onbuild', ...located(source), trigger: source.rest + bodies };
}
