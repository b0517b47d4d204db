import { readFileSync, readlinkSync } from 'node:fs';

/** A program and its arguments. */
export interface Command {
  readonly file: string;
  readonly args: readonly string[];
}

/**
 * How this process was started. Not `process.execPath`, which names the loader where Node is started by a loader of its
 * own; the kernel's own account is the same for every way of starting it.
 */
export function ownCommand(): Command {
  const args = readFileSync('/proc/self/cmdline', 'utf8').split('\0').slice(1, -1);
  return { file: readlinkSync('/proc/self/exe'), args };
}

/** The command that runs another script with the same Node. */
export function nodeCommand(script: string, args: readonly string[]): Command {
  return { file: ownCommand().file, args: [script, ...args] };
}
