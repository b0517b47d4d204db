import { UsageError, type ProcessEnvironment } from '../src/support/index.ts';

/** The build argument and the variable of the environment (reproducible-builds.org, "SOURCE_DATE_EPOCH"). */
export const sourceDateName = 'SOURCE_DATE_EPOCH';

/** The last second of the year 9999: what dates in images are written with reaches no further. */
const latest = 253_402_300_799;

export interface SourceDateRequest {
  /** `--reproducible`; undefined: not said. */
  readonly reproducible: boolean | undefined;
  readonly buildArguments: ReadonlyMap<string, string>;
  readonly environment: ProcessEnvironment;
}

/**
 * The time that nothing in the image may be later than, in seconds since 1970; undefined: times stay as they are. A build
 * argument counts before the environment, as with BuildKit, and `--reproducible` alone means kaniko's 0. An empty value is
 * none.
 *
 * @throws UsageError `E_SOURCE_DATE` for what is no whole number of seconds.
 */
export function sourceDate({
  reproducible,
  buildArguments,
  environment,
}: SourceDateRequest): number | undefined {
  if (reproducible === false) return undefined;
  const text = [buildArguments.get(sourceDateName), environment[sourceDateName]].find(
    (value) => value !== undefined && value !== '',
  );
  if (text === undefined) return reproducible === true ? 0 : undefined;
  const seconds = Number(text);
  if (!/^[0-9]+$/.test(text) || seconds > latest)
    throw new UsageError(`${sourceDateName} "${text}" is not a time`, {
      code: 'E_SOURCE_DATE',
      remedy: 'Give whole seconds since 1970, such as $(git log -1 --format=%ct).',
    });
  return seconds;
}

/** The build arguments with the date, so that `ARG SOURCE_DATE_EPOCH` shows it to a step wherever it was given. */
export function withSourceDate(
  buildArguments: ReadonlyMap<string, string>,
  seconds: number | undefined,
): ReadonlyMap<string, string> {
  return seconds === undefined
    ? buildArguments
    : new Map(buildArguments).set(sourceDateName, String(seconds));
}
