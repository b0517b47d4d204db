import { UsageError } from '../support/index.ts';
import { nearestWord } from './fields.ts';
import { type CheckName, type CheckRule, checkRules } from './rules.ts';

/** What `# check=` says: `skip=A,B;error=true;experimental=all` (Dockerfile reference, "check"). */
export interface CheckOptions {
  readonly skip: ReadonlySet<string> | 'all';
  readonly experimental: ReadonlySet<string> | 'all';
  /** Findings fail the build. */
  readonly error: boolean;
}

export const defaultCheckOptions: CheckOptions = { skip: new Set(), experimental: new Set(), error: false };

/**
 * Parses the text of a check directive.
 *
 * @throws UsageError for an option or a rule that does not exist.
 */
export function parseCheckOptions(text: string, where: string): CheckOptions {
  let options = defaultCheckOptions;
  for (const part of text
    .split(';')
    .map((piece) => piece.trim())
    .filter((piece) => piece !== '')) {
    const equals = part.indexOf('=');
    const name = (equals < 0 ? part : part.slice(0, equals)).trim();
    const value = equals < 0 ? '' : part.slice(equals + 1).trim();
    if (equals < 0 || !['skip', 'experimental', 'error'].includes(name)) {
      const near = nearestWord(name, ['skip', 'experimental', 'error']);
      throw new UsageError(`the check directive has no option "${part}"`, {
        code: 'E_CHECK_OPTION',
        where,
        remedy: near === undefined ? 'Write skip=RULE,…;error=true.' : `Did you mean ${near}=…?`,
      });
    }
    if (name === 'error') options = { ...options, error: parseSwitch(value, where) };
    else options = { ...options, [name]: value === 'all' ? 'all' : parseRules(value, where) };
  }
  return options;
}

function parseSwitch(value: string, where: string): boolean {
  if (/^(?:1|t|true)$/i.test(value)) return true;
  if (/^(?:0|f|false)$/i.test(value)) return false;
  throw new UsageError(`error=${value} of the check directive is neither true nor false`, {
    code: 'E_CHECK_OPTION',
    where,
  });
}

function parseRules(value: string, where: string): ReadonlySet<string> {
  const names = value
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');
  for (const name of names) {
    if (Object.hasOwn(checkRules, name)) continue;
    const near = nearestWord(name, Object.keys(checkRules));
    throw new UsageError(`there is no check named ${name}`, {
      code: 'E_CHECK_OPTION',
      where,
      remedy:
        near === undefined
          ? `The checks are ${Object.keys(checkRules).join(', ')}.`
          : `Did you mean ${near}?`,
    });
  }
  return new Set(names);
}

/** Whether a rule is looked at. */
export function isChecked(name: CheckName, options: CheckOptions): boolean {
  const rule: Omit<CheckRule, 'name'> = checkRules[name];
  const listed = (set: ReadonlySet<string> | 'all'): boolean => set === 'all' || set.has(name);
  return rule.experimental === true ? listed(options.experimental) : !listed(options.skip);
}

/** Options with those of a comment before one instruction on top. */
export function mergeCheckOptions(options: CheckOptions, more: CheckOptions): CheckOptions {
  const merge = (
    a: ReadonlySet<string> | 'all',
    b: ReadonlySet<string> | 'all',
  ): ReadonlySet<string> | 'all' => (a === 'all' || b === 'all' ? 'all' : new Set([...a, ...b]));
  return {
    skip: merge(options.skip, more.skip),
    experimental: merge(options.experimental, more.experimental),
    error: options.error,
  };
}
