import type { Command } from 'commander';
import { pinCommands } from './pin-command.ts';
import { pruneCommand } from './prune-command.ts';
import { reindexCommand } from './reindex-command.ts';
import { verifyCommand } from './verify-command.ts';

/** The commands that keep a volume small and sound. */
export function housekeepingCommands(signal: AbortSignal, onExitCode: (code: number) => void): Command[] {
  return [
    pruneCommand(signal, onExitCode),
    ...pinCommands(),
    reindexCommand(signal),
    verifyCommand(signal, onExitCode),
  ];
}
