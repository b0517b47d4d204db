import { type Command, CommanderError } from 'commander';
import { type ExitCode, UsageError } from '../support/index.ts';

/** Parses a command line; what commander finds wrong is a {@link UsageError}, its help and version are no error. */
export async function parseCommandLine(program: Command, argv: readonly string[]): Promise<ExitCode> {
  configure(program);
  try {
    await program.parseAsync(argv, { from: 'user' });
    return 0;
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return 0;
    throw new UsageError(error.message.replace(/^error: /, '').replace(/\n/g, ' '), {
      remedy: `See ${program.name()} --help.`,
    });
  }
}

function configure(command: Command): void {
  command.exitOverride().configureOutput({ outputError: () => undefined });
  for (const child of command.commands) configure(child);
}
