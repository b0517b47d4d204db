import { exitCodes, isAbortError, KilnError, messageOf, systemErrorCode } from './errors.ts';

/** How a command ended; see docs/cli.md for the codes. */
export type ExitCode = number;

/** Says an error in at most three lines: what failed and where, why, what to do; and shows the text that is at fault. */
export function describeError(error: unknown): string {
  if (!(error instanceof KilnError)) {
    const code = systemErrorCode(error);
    return `error: ${messageOf(error)}${code === undefined || messageOf(error).includes(code) ? '' : ` (${code})`}`;
  }
  const where = error.where === undefined || error.message.includes(error.where) ? '' : `${error.where}: `;
  const lines = [`error: ${where}${error.message} [${error.code}]`];
  if (error.excerpt !== undefined) lines.push(error.excerpt);
  const cause = error.cause === undefined ? '' : firstLine(messageOf(error.cause));
  if (cause !== '' && !error.message.includes(cause)) lines.push(`  cause: ${cause}`);
  if (error.remedy !== undefined) lines.push(`  remedy: ${error.remedy}`);
  return lines.join('\n');
}

function firstLine(text: string): string {
  return text.split('\n', 1)[0] ?? '';
}

/** The exit code an error stands for. A full disk is the environment's fault wherever it shows. */
export function exitCodeOf(error: unknown): ExitCode {
  if (error instanceof KilnError) return exitCodes[error.category];
  const code = systemErrorCode(error);
  return code === 'ENOSPC' || code === 'EDQUOT' || code === 'EROFS' || code === 'EMFILE'
    ? exitCodes.environment
    : exitCodes.build;
}

/**
 * Runs a command with a signal that SIGINT and SIGTERM abort, prints its error, and returns the exit code
 * (130 and 143 for the signals). A second signal ends the process at once.
 */
export async function runCommand(command: (signal: AbortSignal) => Promise<ExitCode>): Promise<ExitCode> {
  const controller = new AbortController();
  let received: 'SIGINT' | 'SIGTERM' | undefined;
  const onSignal = (name: 'SIGINT' | 'SIGTERM'): void => {
    if (received !== undefined) process.exit(signalCode(received));
    received = name;
    controller.abort();
  };
  const onInterrupt = (): void => onSignal('SIGINT');
  const onTerminate = (): void => onSignal('SIGTERM');
  process.on('SIGINT', onInterrupt);
  process.on('SIGTERM', onTerminate);
  try {
    return await command(controller.signal);
  } catch (error) {
    if (received !== undefined) {
      process.stderr.write(`${received === 'SIGINT' ? 'interrupted' : 'terminated'}\n`);
      return signalCode(received);
    }
    if (process.env.KILN_DEBUG !== undefined && error instanceof Error)
      process.stderr.write(`${error.stack ?? ''}\n`);
    const text = isAbortError(error) ? 'error: aborted' : describeError(error);
    process.stderr.write(`${text}\n`);
    return exitCodeOf(error);
  } finally {
    process.off('SIGINT', onInterrupt);
    process.off('SIGTERM', onTerminate);
  }
}

function signalCode(name: 'SIGINT' | 'SIGTERM'): ExitCode {
  return name === 'SIGINT' ? 130 : 143;
}
