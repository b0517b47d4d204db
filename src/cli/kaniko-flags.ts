import { type Command, Option } from 'commander';
import { UsageError } from '../support/index.ts';
import { booleanFlag, valueFlag } from './flags.ts';

/** What becomes of a flag of kaniko's here. */
export interface KanikoFlag {
  /** Without the dashes. */
  readonly name: string;
  /** The fork that goes on with kaniko has it, kaniko itself had not. */
  readonly fork?: true;
  /**
   * `same` and `differs`: there is a flag of this name. `not needed`: it is taken, has no effect, and one line says why.
   * `refused`: an error that says what to use. `respelt`: an older spelling of another flag.
   */
  readonly verdict: 'same' | 'differs' | 'not yet' | 'not needed' | 'refused' | 'respelt';
  /** What the flag takes, where no flag of ours has its name: a value, or true and false. */
  readonly takes?: 'value' | 'boolean';
  /** Why it has no effect, what to use, or what differs, as words in a table and after a colon. For `respelt` the other flag. */
  readonly remark?: string;
}

/** Has a command take those of kaniko's flags that have no effect here, and refuse the others with a reason. */
export function addKanikoFlags(command: Command, flags: readonly KanikoFlag[]): void {
  for (const flag of flags) {
    if (flag.verdict !== 'not needed' && flag.verdict !== 'refused') continue;
    const option =
      flag.takes === 'value'
        ? valueFlag(`--${flag.name} <value>`, '').argParser(collectLast)
        : booleanFlag(`--${flag.name}`, '');
    if (flag.verdict === 'refused') option.argParser((value: string) => refuse(flag, value));
    command.addOption(option.hideHelp());
  }
}

function collectLast(value: string): string {
  return value;
}

/** `--flag=false` asks for nothing. */
function refuse({ name, remark = '' }: KanikoFlag, value: string): string {
  if (value === 'false') return value;
  throw new UsageError(`--${name} is kaniko's, and Kiln has nothing like it`, {
    code: 'E_FLAG_REFUSED',
    where: `--${name}`,
    remedy: `${capital(remark)}.`,
  });
}

/** A line for each flag that was given and has no effect. */
export function kanikoNotes(command: Command, flags: readonly KanikoFlag[]): string[] {
  return flags.flatMap(({ name, verdict, remark = '' }) => {
    if (verdict !== 'not needed') return [];
    const option = command.options.find(({ long }) => long === `--${name}`) ?? new Option(`--${name}`);
    const source = command.getOptionValueSource(option.attributeName());
    return source === undefined || source === 'default' ? [] : [`--${name} has no effect: ${plain(remark)}`];
  });
}

/** Writes older spellings of kaniko's flags as they are written now. */
export function respell(argv: readonly string[], flags: readonly KanikoFlag[]): string[] {
  const spellings = new Map<string, string>(
    flags.flatMap(({ name, verdict, remark = '' }) =>
      verdict === 'respelt' ? [[`--${name}`, `--${remark}`] as const] : [],
    ),
  );
  return argv.map((word) => {
    const [name = ''] = word.split('=', 1);
    return `${spellings.get(name) ?? name}${word.slice(name.length)}`;
  });
}

/** The flags as a table in Markdown, in the order of the alphabet. */
export function kanikoTable(flags: readonly KanikoFlag[]): string {
  const order = (name: string): string => name.toLowerCase();
  const rows = [...flags]
    .sort((a, b) => (order(a.name) < order(b.name) ? -1 : 1))
    .map(({ name, fork, verdict, remark }) => {
      const words = verdict === 'respelt' ? `an older spelling of \`--${remark ?? ''}\`` : remark;
      const remarks = [fork === true ? '*fork*' : undefined, words].filter((word) => word !== undefined);
      const shown = verdict === 'respelt' ? 'same' : verdict;
      return `| \`--${name}\` | ${shown} | ${remarks.join('; ')}${remarks.length === 0 ? '' : ' '}|`;
    });
  return ['| flag | Kiln | |', '|---|---|---|', ...rows].join('\n');
}

/** Words of a table without its markup. */
function plain(remark: string): string {
  return remark.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').replaceAll('`', '');
}

function capital(text: string): string {
  return plain(text).replace(/^[a-z]/, (letter) => letter.toUpperCase());
}
