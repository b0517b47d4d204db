import { type Command, Option } from 'commander';
import { type LogFormat, logFormats, UsageError } from '../support/index.ts';
import { collect, parseBoolean } from './values.ts';

/** `--cache`, `--cache=false` and `KILN_CACHE=true` alike. @param fallback undefined: not said. */
export function booleanFlag(flag: string, description: string, fallback?: boolean): Option {
  const option = new Option(`${flag} [boolean]`, description)
    .argParser(parseBoolean)
    .preset(true)
    .env(environmentName(flag));
  // kaniko's --no-push is a flag of its own, not the negation of a --push.
  option.negate = false;
  return fallback === undefined ? option : option.default(fallback);
}

/** A flag with a value, which `KILN_<FLAG>` may give too. */
export function valueFlag(flags: string, description: string): Option {
  const option = new Option(flags, description).env(environmentName(flags));
  // --no-cache-filter takes a value, and is the negation of nothing.
  option.negate = false;
  return option;
}

/** A flag with a value that may be given several times. */
export function listFlag(flags: string, description: string): Option {
  return valueFlag(flags, `${description}; may be given several times`)
    .argParser(collect)
    .default([], 'none');
}

/** Formats of lists. */
export const outputFormats = ['table', 'json'] as const;
export type OutputFormat = (typeof outputFormats)[number];

export interface OutputFlags {
  readonly output: OutputFormat;
}

export function outputFlag(): Option {
  return valueFlag('-o, --output <format>', 'how lists are written').choices(outputFormats).default('table');
}

export interface LogFlags {
  readonly logFormat: LogFormat;
}

export function logFlag(): Option {
  return valueFlag('--log-format <format>', 'how progress is told').choices(logFormats).default('text');
}

export function addFlags(command: Command, flags: readonly Option[]): Command {
  for (const flag of flags) command.addOption(named(flag));
  return command;
}

/** The flags of `options` that were given, as arguments for another program that has the same ones. */
export function asArguments(options: readonly Option[], values: Readonly<Record<string, unknown>>): string[] {
  return options.flatMap((option) => {
    const value = values[option.attributeName()];
    if (value === undefined || value === option.defaultValue) return [];
    return [value as string | number | boolean | string[]]
      .flat()
      .map((single) => `${option.long ?? ''}=${String(single)}`);
  });
}

/** Has what its parser finds wrong name the flag. */
function named(flag: Option): Option {
  const { parseArg } = flag;
  if (parseArg === undefined) return flag;
  return flag.argParser((value, previous: unknown) => {
    try {
      return parseArg(value, previous);
    } catch (error) {
      if (!(error instanceof UsageError) || error.where !== undefined) throw error;
      const { message, code, remedy, cause } = error;
      throw new UsageError(message, { code, remedy, cause, where: flag.long ?? flag.flags });
    }
  });
}

function environmentName(flags: string): string {
  return `KILN_${(/--([a-z-]+)/.exec(flags)?.[1] ?? '').replaceAll('-', '_').toUpperCase()}`;
}
