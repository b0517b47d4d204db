/** An ordinary user who has become root of a user namespace. */
export interface RootlessUser {
  readonly name: string;
  /** Why there is no id but the user's own; undefined when there are subordinate ids. */
  readonly singleIdReason: string | undefined;
}

/** How the process that begins anew as root of a user namespace is told who it was. Never passed on to steps. */
const userVariable = 'KILN_ROOTLESS_USER';
const reasonVariable = 'KILN_SINGLE_ID_REASON';

/** Writes into the environment who the process is that begins anew. */
export function rememberRootlessUser({ name, singleIdReason }: RootlessUser): void {
  process.env[userVariable] = name;
  if (singleIdReason === undefined) delete process.env[reasonVariable];
  else process.env[reasonVariable] = singleIdReason;
}

/** The ordinary user that this process was before it became root of a user namespace; undefined when it never was one. */
export function rootlessUser(): RootlessUser | undefined {
  const name = process.env[userVariable];
  if (name === undefined || process.geteuid?.() !== 0) return undefined;
  return { name, singleIdReason: process.env[reasonVariable] };
}

/** Whether an ordinary user started this process, whatever it has become. */
export function isOrdinaryUser(): boolean {
  return process.geteuid?.() !== 0 || rootlessUser() !== undefined;
}

/**
 * Whether a command must be run by root, be it of a user namespace: all but those named, and what only asks for text about
 * the program.
 */
export function needsRoot(argv: readonly string[], plainCommands: readonly string[]): boolean {
  if (argv.some((word) => ['--help', '-h', '--version', '-V'].includes(word))) return false;
  return argv[0] !== 'help' && !plainCommands.includes(argv[0] ?? '');
}
