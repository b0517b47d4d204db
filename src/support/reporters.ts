import type { Progress } from './events.ts';
import { jsonReporter } from './report-json.ts';
import { plainReporter } from './report-plain.ts';
import { TerminalReporter } from './report-terminal.ts';

/** Values of `--log-format`. */
export const logFormats = ['text', 'json'] as const;
export type LogFormat = (typeof logFormats)[number];

/** Draws progress on standard error: live on a terminal, plain lines elsewhere, JSON when asked for. */
export function reportTo(
  progress: Progress,
  format: LogFormat,
  stream: NodeJS.WriteStream = process.stderr,
): Disposable {
  if (format === 'json') return progress.listen(jsonReporter((data) => void stream.write(data)));
  if (!stream.isTTY || process.env.TERM === 'dumb' || process.env.CI !== undefined)
    return progress.listen(plainReporter((data) => void stream.write(data)));
  const reporter = new TerminalReporter(stream);
  const listening = progress.listen(reporter.listener);
  return {
    [Symbol.dispose]: () => {
      listening[Symbol.dispose]();
      reporter[Symbol.dispose]();
    },
  };
}
