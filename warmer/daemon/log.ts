import { formatBytes, formatSeconds, type LogFormat, type Progress } from '../../src/support/index.ts';
import type { WarmingEvent } from './types.ts';

type Level = 'debug' | 'info' | 'warn';

/**
 * The log of the daemon, one line an event: in words, or as a JSON object with the event's fields, `time`, `level` and
 * `type`. What happens all the time, such as tags that have not moved, is only told with KILN_DEBUG.
 */
export class DaemonLog implements Disposable {
  readonly #write: (line: string) => void;
  readonly #format: LogFormat;
  readonly #debug = process.env.KILN_DEBUG !== undefined;
  readonly #following = new DisposableStack();

  constructor(write: (line: string) => void, format: LogFormat) {
    this.#write = write;
    this.#format = format;
  }

  /** Tells what rooms report; transfers are told of as part of their pull. */
  followProgress(progress: Progress): void {
    this.#following.use(
      progress.listen((event) => {
        if (event.type === 'log') this.#say(event.level, event.message, { type: 'log' });
      }),
    );
  }

  event(event: WarmingEvent): void {
    const described = describeWarmingEvent(event);
    if (described !== undefined) this.#say(described.level, described.message, fieldsOf(event));
  }

  [Symbol.dispose](): void {
    this.#following[Symbol.dispose]();
  }

  #say(level: Level, message: string, fields: object): void {
    if (level === 'debug' && !this.#debug) return;
    const time = new Date().toISOString();
    const line =
      this.#format === 'json'
        ? JSON.stringify({ time, level, ...fields, message })
        : `${time} ${level} ${message}`;
    this.#write(`${line}\n`);
  }
}

/** An event in words; undefined for one that is not worth a line. */
export function describeWarmingEvent(
  event: WarmingEvent,
): { readonly level: Level; readonly message: string } | undefined {
  switch (event.type) {
    case 'pull':
      return describePull(event.record);
    case 'request':
      return { level: 'debug', message: `a build asked for an image: ${event.result}` };
    case 'report': {
      const { build, bases, seconds, succeeded } = event.report;
      const warm = bases.filter(({ outcome }) => outcome === 'warm').length;
      return {
        level: 'info',
        message: `build ${build} ${succeeded ? 'succeeded' : 'failed'} in ${formatSeconds(seconds)}, ${warm} of ${bases.length} bases were warm`,
      };
    }
    case 'prune':
      if (event.result === 'failed') return { level: 'warn', message: 'pruning failed' };
      return event.reclaimedBytes === 0
        ? undefined
        : { level: 'info', message: `pruned ${formatBytes(event.reclaimedBytes)}` };
    case 'reload':
      return event.accepted
        ? { level: 'info', message: event.message }
        : { level: 'warn', message: `the new configuration is not used: ${event.message}` };
    case 'adopted':
      return {
        level: 'info',
        message: `adopted ${event.reference} (${event.platform}), which builds keep missing`,
      };
    case 'dropped':
      return { level: 'info', message: `dropped ${event.reference} (${event.platform}), which was adopted` };
  }
}

function describePull(record: Extract<WarmingEvent, { type: 'pull' }>['record']): {
  level: Level;
  message: string;
} {
  const { reference, platform, outcome, bytes, seconds, error } = record;
  const what = `${outcome} ${reference} (${platform})`;
  if (error !== undefined) return { level: 'warn', message: `${what}: ${error}` };
  return outcome === 'fresh'
    ? { level: 'debug', message: what }
    : { level: 'info', message: `${what}, ${formatBytes(bytes)} in ${formatSeconds(seconds)}` };
}

function fieldsOf(event: WarmingEvent): object {
  switch (event.type) {
    case 'pull':
      return { type: event.type, ...event.record };
    case 'report':
      return { type: event.type, ...event.report };
    default:
      return event;
  }
}
