/*
 * A seccomp profile that denies what containerd's default one ("RuntimeDefault") denies to a container with the default
 * capabilities: whatever mounts, enters or makes namespaces, loads code into the kernel, or reaches its keys and clocks.
 */

const denied = [
  ...['acct', 'add_key', 'adjtimex', 'bpf', 'clock_adjtime', 'clock_settime', 'create_module'],
  ...['delete_module', 'fanotify_init', 'finit_module', 'fsconfig', 'fsmount', 'fsopen', 'fspick'],
  ...['get_kernel_syms', 'get_mempolicy', 'init_module', 'io_uring_enter', 'io_uring_register'],
  ...['io_uring_setup', 'ioperm', 'iopl', 'kcmp', 'kexec_file_load', 'kexec_load', 'keyctl'],
  ...['lookup_dcookie', 'mbind', 'migrate_pages', 'mount', 'mount_setattr', 'move_mount', 'move_pages'],
  ...['nfsservctl', 'open_by_handle_at', 'open_tree', 'perf_event_open', 'pivot_root', 'query_module'],
  ...['quotactl', 'reboot', 'request_key', 'set_mempolicy', 'setdomainname', 'sethostname', 'setns'],
  ...['settimeofday', 'stime', 'swapoff', 'swapon', 'sysfs', 'umount', 'umount2', 'unshare', 'uselib'],
  ...['userfaultfd', 'ustat', 'vhangup'],
];

/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET. */
const namespaceFlags = 0x7e020000;

/** What the profile allows to a container with SYS_ADMIN; pivot_root is not among it. */
const allowedToAdministrators = [
  ...['bpf', 'fanotify_init', 'fsconfig', 'fsmount', 'fsopen', 'fspick', 'lookup_dcookie', 'mount'],
  ...['mount_setattr', 'move_mount', 'open_tree', 'perf_event_open', 'quotactl', 'setdomainname'],
  ...['sethostname', 'setns', 'umount', 'umount2', 'unshare'],
];

/** The profile for a container with these capabilities. */
export function runtimeDefaultSeccomp(capabilities: readonly string[]): object {
  if (!capabilities.includes('SYS_ADMIN')) return profile;
  const names = denied.filter((name) => !allowedToAdministrators.includes(name));
  return { ...profile, syscalls: [{ names, action: 'SCMP_ACT_ERRNO', errnoRet: 1 }] };
}

const profile = {
  defaultAction: 'SCMP_ACT_ALLOW',
  architectures: process.arch === 'x64' ? ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86'] : ['SCMP_ARCH_AARCH64'],
  syscalls: [
    { names: denied, action: 'SCMP_ACT_ERRNO', errnoRet: 1 },
    // The C library falls back to clone, whose flags a filter can see.
    { names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: 38 },
    ...Array.from({ length: 31 }, (_, bit) => 2 ** bit)
      .filter((flag) => (flag & namespaceFlags) !== 0)
      .map((flag) => ({
        names: ['clone'],
        action: 'SCMP_ACT_ERRNO',
        errnoRet: 1,
        args: [{ index: 0, value: flag, valueTwo: flag, op: 'SCMP_CMP_MASKED_EQ' }],
      })),
  ],
} as const;
