import { readFile } from 'node:fs/promises';

interface Condition {
  readonly arches?: readonly string[];
  readonly caps?: readonly string[];
}
interface Profile {
  readonly defaultAction: string;
  readonly syscalls: readonly {
    readonly names: readonly string[];
    readonly action: string;
    readonly errnoRet?: number;
    readonly args?: readonly object[] | null;
    readonly includes?: Condition;
    readonly excludes?: Condition;
  }[];
}

/** The profile that Debian's container tools come with; runtimes derive theirs from the same one. */
const file = '/usr/share/containers/seccomp.json';
const architecture = process.arch === 'x64' ? 'amd64' : process.arch;

/**
 * A container's default seccomp profile, as the OCI runtime specification has it: what it allows depends on the
 * container's capabilities.
 *
 * @param capabilities with their prefix, `CAP_CHOWN`.
 */
export async function defaultSeccomp(capabilities: readonly string[]): Promise<object> {
  const { defaultAction, syscalls } = JSON.parse(await readFile(file, 'utf8')) as Profile;
  const holds = ({ arches, caps }: Condition): boolean =>
    arches?.includes(architecture) === true || caps?.some((name) => capabilities.includes(name)) === true;
  const isConditional = (condition?: Condition): condition is Condition =>
    condition?.arches !== undefined || condition?.caps !== undefined;
  return {
    defaultAction,
    defaultErrnoRet: 1,
    architectures:
      process.arch === 'x64' ? ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32'] : ['SCMP_ARCH_AARCH64'],
    syscalls: syscalls
      .filter(({ includes }) => !isConditional(includes) || holds(includes))
      .filter(({ excludes }) => !isConditional(excludes) || !holds(excludes))
      .map(({ names, action, errnoRet, args }) => ({
        names,
        action,
        ...(errnoRet === undefined ? {} : { errnoRet }),
        ...(args == null || args.length === 0 ? {} : { args }),
      })),
  };
}
