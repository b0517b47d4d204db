import type { LogicalLine } from './lines.ts';
import {
  jsonWords,
  nearestWord,
  parseCommand,
  parseDuration,
  type Place,
  splitAtSpaces,
  splitWords,
  syntaxError,
} from './fields.ts';
import { Flags, type FlagType, takeFlags } from './flags.ts';
import { parseHeredocOpening } from './heredocs.ts';
import { parseMountFields } from './mounts.ts';
import {
  type Assignment,
  type FromInstruction,
  type HealthcheckInstruction,
  type Instruction,
  networkModes,
  securityModes,
} from './types.ts';

interface Source extends Place {
  readonly instruction: string;
  readonly located: Pick<Instruction, 'line' | 'endLine' | 'original' | 'word' | 'comments'>;
  readonly flags: readonly string[];
  /** The text behind the flags. */
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
  ENV: (source) => ({ kind: 'env', ...source.located, variables: parseAssignments(source) }),
  LABEL: (source) => ({ kind: 'label', ...source.located, labels: parseAssignments(source) }),
  ARG: parseArg,
  WORKDIR: (source) => ({ kind: 'workdir', ...source.located, value: plainText(source) }),
  USER: (source) => ({ kind: 'user', ...source.located, value: plainText(source) }),
  STOPSIGNAL: (source) => ({ kind: 'stopsignal', ...source.located, value: plainText(source) }),
  MAINTAINER: (source) => ({ kind: 'maintainer', ...source.located, value: plainText(source) }),
  EXPOSE: (source) => {
    flagsOf(source, {});
    return { kind: 'expose', ...source.located, words: splitAtSpaces(source.rest).sort() };
  },
  VOLUME: parseVolume,
  CMD: (source) => parseProgram(source, 'cmd'),
  ENTRYPOINT: (source) => parseProgram(source, 'entrypoint'),
  SHELL: parseShell,
  HEALTHCHECK: parseHealthcheck,
  ONBUILD: parseOnBuild,
};

const mayBeEmpty = new Set(['CMD', 'ENTRYPOINT']);

/**
 * Parses one instruction.
 *
 * @throws BuildError `E_DOCKERFILE_SYNTAX` naming file and line.
 */
export function parseInstruction(
  line: LogicalLine,
  file: string,
  escape: string,
): Instruction | FromInstruction {
  const match = /^(\S+)(?:\s+([\s\S]*))?$/.exec(line.text);
  const word = match?.[1] ?? '';
  const instruction = word.toUpperCase();
  const place: Place = { file, line: line.line };
  const parser = Object.hasOwn(parsers, instruction) ? parsers[instruction] : undefined;
  if (parser === undefined) {
    const near = nearestWord(instruction, Object.keys(parsers));
    throw syntaxError(
      place,
      `unknown instruction ${word}`,
      near === undefined
        ? `The instructions are ${Object.keys(parsers).join(', ')}.`
        : `Did you mean ${near}?`,
      word,
    );
  }
  const { words, rest } = takeFlags((match?.[2] ?? '').trim(), escape);
  if (rest === '' && !mayBeEmpty.has(instruction))
    throw syntaxError(place, `${instruction} needs an argument`);
  const { endLine, text, comments, heredocs } = line;
  const located = { line: line.line, endLine, original: text, word, comments };
  return parser({ ...place, instruction, located, flags: words, rest, escape, heredocs });
}

function flagsOf(source: Source, types: Readonly<Record<string, FlagType>>): Flags {
  return new Flags(source, source.instruction, source.flags, types);
}

function plainText(source: Source): string {
  flagsOf(source, {});
  return source.rest;
}

function parseFrom(source: Source): FromInstruction {
  const flags = flagsOf(source, { platform: 'text' });
  const words = splitAtSpaces(source.rest);
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
      alias,
    );
  return {
    kind: 'from',
    ...source.located,
    image,
    alias: name,
    as: as === undefined || alias === undefined ? undefined : [as, alias],
    platform: flags.text('platform'),
  };
}

function parseRun(source: Source): Instruction {
  const flags = flagsOf(source, { mount: 'list', network: 'text', security: 'text', device: 'list' });
  const { heredocs, rest } = source;
  const command =
    heredocs.length > 0 ? ({ form: 'shell', command: rest } as const) : parseCommand(rest, source);
  if (command.form === 'exec' && command.command.length === 0)
    throw syntaxError(source, 'RUN needs a command');
  return {
    kind: 'run',
    ...source.located,
    command,
    heredocs,
    mounts: flags.list('mount').map((text) => parseMountFields(text, source)),
    network: choice(source, 'network', flags.text('network'), networkModes) ?? 'default',
    security: choice(source, 'security', flags.text('security'), securityModes) ?? 'sandbox',
    devices: flags.list('device'),
  };
}

function choice<Word extends string>(
  source: Source,
  flag: string,
  value: string | undefined,
  words: readonly Word[],
): Word | undefined {
  if (value === undefined) return undefined;
  const found = words.find((word) => word === value);
  if (found !== undefined) return found;
  const near = nearestWord(value, words);
  throw syntaxError(
    source,
    `${source.instruction} --${flag} has no value "${value}"`,
    near === undefined ? `It is one of ${words.join(', ')}.` : `Did you mean ${near}?`,
    value,
  );
}

const copyFlags = {
  copy: { from: 'text', chown: 'text', chmod: 'text', link: 'boolean', parents: 'boolean', exclude: 'list' },
  add: {
    chown: 'text',
    chmod: 'text',
    link: 'boolean',
    exclude: 'list',
    checksum: 'text',
    'keep-git-dir': 'boolean',
    unpack: 'boolean',
  },
} as const;

function parseCopy(source: Source, kind: 'copy' | 'add'): Instruction {
  const flags = flagsOf(source, copyFlags[kind]);
  const all = jsonWords(source.rest, source) ?? splitAtSpaces(source.rest);
  const destination = all.at(-1);
  if (destination === undefined || all.length < 2)
    throw syntaxError(
      source,
      `${source.instruction} needs at least one source and a destination`,
      `Write ${source.instruction} source… destination.`,
    );
  const isHeredoc = (word: string): boolean =>
    source.heredocs.length > 0 && parseHeredocOpening(word) !== undefined;
  if (isHeredoc(destination))
    throw syntaxError(source, `a here-document cannot be the destination of ${source.instruction}`);
  return {
    kind,
    ...source.located,
    sources: all.slice(0, -1).filter((word) => !isHeredoc(word)),
    heredocs: source.heredocs,
    destination,
    from: flags.text('from'),
    chown: flags.text('chown'),
    chmod: flags.text('chmod'),
    link: flags.boolean('link') ?? false,
    parents: flags.boolean('parents') ?? false,
    excludes: flags.list('exclude'),
    checksum: flags.text('checksum'),
    keepGitDir: flags.boolean('keep-git-dir'),
    unpack: flags.boolean('unpack'),
  };
}

function parseAssignments(source: Source): Assignment[] {
  flagsOf(source, {});
  const { instruction } = source;
  const words = splitWords(source.rest, source.escape);
  const first = words[0] ?? '';
  if (!first.includes('=')) {
    // The old form: everything after the first word is the value.
    const match = /^(\S+)[\t\v\f\r ]+([\s\S]*)$/.exec(source.rest);
    if (match === null)
      throw syntaxError(
        source,
        `${instruction} ${first} has no value`,
        `Write ${instruction} ${first}=value.`,
      );
    return [{ name: match[1] ?? '', value: match[2] ?? '', legacy: true }];
  }
  return words.map((entry) => {
    const equals = entry.indexOf('=');
    if (equals <= 0)
      throw syntaxError(
        source,
        `"${entry}" is not of the form name=value`,
        'Put values with spaces in quotes.',
        entry,
      );
    return { name: entry.slice(0, equals), value: entry.slice(equals + 1), legacy: false };
  });
}

function parseArg(source: Source): Instruction {
  const entries = splitWords(source.rest, source.escape).map((entry) => {
    const equals = entry.indexOf('=');
    if (equals === 0) throw syntaxError(source, `"${entry}" has no name`, 'Write ARG name=value.', entry);
    return equals < 0
      ? { name: entry, value: undefined }
      : { name: entry.slice(0, equals), value: entry.slice(equals + 1) };
  });
  return { kind: 'arg', ...source.located, arguments: entries };
}

function parseVolume(source: Source): Instruction {
  flagsOf(source, {});
  const words = (jsonWords(source.rest, source) ?? splitAtSpaces(source.rest)).map((word) => word.trim());
  if (words.length === 0 || words.includes(''))
    throw syntaxError(source, 'VOLUME names an empty path', 'Write VOLUME /path.');
  return { kind: 'volume', ...source.located, words };
}

function parseProgram(source: Source, kind: 'cmd' | 'entrypoint'): Instruction {
  flagsOf(source, {});
  return { kind, ...source.located, command: parseCommand(source.rest, source) };
}

function parseShell(source: Source): Instruction {
  flagsOf(source, {});
  const words = jsonWords(source.rest, source);
  if (words === undefined || words.length === 0)
    throw syntaxError(source, 'SHELL takes a JSON list', 'Write SHELL ["/bin/bash", "-c"].');
  return { kind: 'shell', ...source.located, words };
}

function parseHealthcheck(source: Source): HealthcheckInstruction {
  const match = /^(\S+)\s*([\s\S]*)$/.exec(source.rest);
  const [, type = '', command = ''] = match ?? [];
  if (type.toUpperCase() === 'NONE') {
    if (command !== '') throw syntaxError(source, 'HEALTHCHECK NONE takes nothing else');
    return { kind: 'healthcheck', ...source.located, command: undefined };
  }
  const flags = flagsOf(source, {
    interval: 'text',
    timeout: 'text',
    'start-period': 'text',
    'start-interval': 'text',
    retries: 'text',
  });
  if (type.toUpperCase() !== 'CMD')
    throw syntaxError(
      source,
      `HEALTHCHECK takes NONE or CMD, not ${type}`,
      'Write HEALTHCHECK CMD command.',
      type,
    );
  if (command === '') throw syntaxError(source, 'HEALTHCHECK CMD needs a command');
  const duration = (flag: string): number | undefined => {
    const text = flags.text(flag);
    if (text === undefined || text === '') return undefined;
    const value = parseDuration(text);
    if (value === undefined || (value !== 0 && value < 1e6))
      throw syntaxError(source, `"${text}" is not a duration of at least 1ms`, `Write --${flag}=30s.`, text);
    return value;
  };
  const retries = flags.text('retries') ?? '';
  if (!/^[0-9]{0,9}$/.test(retries))
    throw syntaxError(source, `"${retries}" is not a number of retries`, 'Write --retries=3.', retries);
  const optional = {
    interval: duration('interval'),
    timeout: duration('timeout'),
    startPeriod: duration('start-period'),
    startInterval: duration('start-interval'),
    retries: retries === '' ? undefined : Number(retries),
  };
  const given = Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== undefined));
  return {
    kind: 'healthcheck',
    ...source.located,
    command: parseCommand(command, source),
    ...given,
  };
}

function parseOnBuild(source: Source): Instruction {
  flagsOf(source, {});
  const { rest, file, line, located, heredocs } = source;
  const word = (rest.split(/\s/, 1)[0] ?? '').toUpperCase();
  if (['ONBUILD', 'FROM', 'MAINTAINER'].includes(word))
    throw syntaxError(source, `${word} cannot be a trigger of ONBUILD`);
  const { endLine, comments } = located;
  parseInstruction(
    { text: rest, line, endLine, heredocs, comments, emptyContinuation: undefined },
    file,
    source.escape,
  );
  const bodies = heredocs.map((heredoc) => `\n${heredoc.content}${heredoc.name}`).join('');
  return { kind: 'onbuild', ...located, trigger: rest + bodies };
}
