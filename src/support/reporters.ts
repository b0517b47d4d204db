import type { Progress, ProgressEvent, ProgressListener } from './events.ts';
import { jsonReporter } from './report-json.ts';
import { plainReporter } from './report-plain.ts';
import { TerminalReporter } from './report-terminal.ts';

/** Values of `--log-format`. kaniko has `color`, which is what text is on a terminal anyway. */
export const logFormats = ['text', 'color', 'json'] as const;
export type LogFormat = (typeof logFormats)[number];

/** Values of `--verbosity`, which are kaniko's: what is at least as grave is told. */
export const verbosities = ['panic', 'fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const;
export type Verbosity = (typeof verbosities)[number];

/** How progress is told. */
export interface ReportOptions {
  readonly logFormat: LogFormat;
  /** Undefined: `info` as text, and everything as JSON, which programs read. */
  readonly verbosity?: Verbosity;
  /** Begin each line of text with the time. */
  readonly logTimestamp?: boolean;
}

/** Draws progress on standard error: live on a terminal, plain lines elsewhere, JSON when asked for. */
export function reportTo(
  progress: Progress,
  options: ReportOptions,
  stream: NodeJS.WriteStream = process.stderr,
): Disposable {
  const write = (data: string | Uint8Array): void => void stream.write(data);
  const { logFormat, verbosity, logTimestamp = false } = options;
  if (logFormat === 'json')
    return progress.listen(
      verbosity === undefined ? jsonReporter(write) : atLeast(verbosity, jsonReporter(write)),
    );
  const level = verbosity ?? 'info';
  if (logTimestamp) return progress.listen(atLeast(level, spoken(plainReporter(stamped(write)))));
  if (!stream.isTTY || process.env.TERM === 'dumb' || process.env.CI !== undefined)
    return progress.listen(atLeast(level, spoken(plainReporter(write))));
  const reporter = new TerminalReporter(stream);
  const listening = progress.listen(atLeast(level, spoken(reporter.listener)));
  return {
    [Symbol.dispose]: () => {
      listening[Symbol.dispose]();
      reporter[Symbol.dispose]();
    },
  };
}

/** Passes on what is at least as grave; the output of steps is not ours to leave out. */
function atLeast(verbosity: Verbosity, listener: ProgressListener): ProgressListener {
  const limit = verbosities.indexOf(verbosity);
  return (event) => {
    if (event.type === 'output' || verbosities.indexOf(gravityOf(event)) <= limit) listener(event);
  };
}

function gravityOf(event: ProgressEvent): Verbosity {
  if (event.type === 'log') return event.level;
  if (event.type === 'check') return 'warn';
  if (event.type === 'step-end' && event.outcome === 'failed') return 'error';
  return 'info';
}

/** Text leaves debugging out unless it is asked for; what comes as far as this was. */
function spoken(listener: ProgressListener): ProgressListener {
  return (event) =>
    listener(event.type === 'log' && event.level === 'debug' ? { ...event, level: 'info' } : event);
}

/** Writes the time before each line; a reporter writes whole lines. */
function stamped(write: (data: string | Uint8Array) => void): (data: string | Uint8Array) => void {
  return (data) => {
    write(Buffer.concat([Buffer.from(`${new Date().toISOString()} `), Buffer.from(data)]));
  };
}
