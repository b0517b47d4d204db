import { type Command, Option } from 'commander';
import { logFormats, type ReportOptions, UsageError, verbosities } from '../support/index.ts';
import { collect, parseBoolean } from './values.ts';

/** A flag that knows what was last given for it, whatever that was read as. */
class Flag extends Option {
  written: string | boolean | undefined;
}

/** `--cache`, `--cache=false` and `KILN_CACHE=true` alike. @param fallback undefined: not said. */
export function booleanFlag(flag: string, description: string, fallback?: boolean): Option {
  const option = new Flag(`${flag} [boolean]`, description)
    .argParser(parseBoolean)
    .preset(true)
    .env(environmentName(flag));
  // kaniko's --no-push is a flag of its own, not the negation of a --push.
  option.negate = false;
  return fallback === undefined ? option : option.default(fallback);
}

/** A flag with a value, which `KILN_<FLAG>` may give too. */
export function valueFlag(flags: string, description: string): Option {
  const option = new Flag(flags, description).env(environmentName(flags));
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

/** What {@link logFlags} give. */
export type LogFlags = ReportOptions;

export function logFormatFlag(): Option {
  return valueFlag('--log-format <format>', 'how progress is told').choices(logFormats).default('text');
}

/** How progress is told. Names and values are kaniko's. */
export function logFlags(): Option[] {
  return [
    logFormatFlag(),
    valueFlag('-v, --verbosity <level>', 'tell what is at least as grave (default: info)').choices(
      verbosities,
    ),
    booleanFlag('--log-timestamp', 'begin each line of text with the time', false),
  ];
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

/** Whether a flag may be given several times. */
export function isList(flag: Option): boolean {
  return Array.isArray(flag.defaultValue);
}

/** A flag's value as a user would write it; undefined when it has none. */
export function writtenValue(flag: Option, value: unknown): string | boolean | string[] | undefined {
  if (value === undefined || typeof value === 'boolean' || typeof value === 'string') return value;
  if (Array.isArray(value)) return value.map(String);
  if (value === flag.defaultValue) return flag.defaultValueDescription ?? JSON.stringify(value);
  return flag instanceof Flag ? flag.written : JSON.stringify(value);
}

/** Has what its parser finds wrong name the flag. */
function named(flag: Option): Option {
  const { parseArg } = flag;
  if (parseArg === undefined) return flag;
  return flag.argParser((value, previous: unknown) => {
    try {
      if (flag instanceof Flag) flag.written = value;
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
