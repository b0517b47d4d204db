import koffi from 'koffi';

/**
 * The C library calls that Node lacks. All are synchronous and act on the calling thread.
 * A failing call throws {@link SystemCallError}. The bindings are made once a process, on first use.
 */

/** A system call that failed, in the shape of Node's own file system errors. */
export class SystemCallError extends Error {
  override readonly name = 'SystemCallError';
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;

  constructor(syscall: string, errno: number, subject?: string) {
    const code = errnoNames.get(errno) ?? `ERRNO_${errno}`;
    super(`${code}: ${syscall}${subject === undefined ? '' : ` '${subject}'`}`);
    this.code = code;
    this.errno = errno;
    this.syscall = syscall;
  }
}

const errnoNames = new Map<number, string>(
  Object.entries(koffi.os.errno).map(([name, value]) => [value, name] as const),
);

const libc = koffi.load(null);

/** Calls `bound`, and turns its -1 into an exception. */
function check(result: number | bigint, syscall: string, subject?: string): number {
  if (Number(result) === -1) throw new SystemCallError(syscall, koffi.errno(), subject);
  return Number(result);
}

/** A C string of a path: paths are bytes, and Node's strings cannot hold all of them. */
export type PathBytes = string | Buffer;

function cString(path: PathBytes): Buffer {
  return Buffer.concat([typeof path === 'string' ? Buffer.from(path) : path, Buffer.from([0])]);
}

const bound = {
  mount: libc.func(
    'int mount(const void *source, const void *target, const void *type, unsigned long flags, const void *data)',
  ),
  umount2: libc.func('int umount2(const void *target, int flags)'),
  unshare: libc.func('int unshare(int flags)'),
  chroot: libc.func('int chroot(const void *path)'),
  chdir: libc.func('int chdir(const void *path)'),
  flock: libc.func('int flock(int fd, int operation)'),
  mknod: libc.func('int mknod(const void *path, unsigned int mode, unsigned long dev)'),
  prctl: libc.func(
    'int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)',
  ),
  utimensat: libc.func('int utimensat(int dirfd, const void *path, const void *times, int flags)'),
  lgetxattr: libc.func('long lgetxattr(const void *path, const void *name, _Out_ void *value, size_t size)'),
  lsetxattr: libc.func(
    'int lsetxattr(const void *path, const void *name, const void *value, size_t size, int flags)',
  ),
  lremovexattr: libc.func('int lremovexattr(const void *path, const void *name)'),
  llistxattr: libc.func('long llistxattr(const void *path, _Out_ void *list, size_t size)'),
  sethostname: libc.func('int sethostname(const void *name, size_t length)'),
  fcntl: libc.func('int fcntl(int fd, int command, long argument)'),
  execvp: libc.func('int execvp(const char *file, const char **argv)'),
  syscall1: libc.func('syscall', 'long', ['long', 'long']),
  syscall2: libc.func('syscall', 'long', ['long', 'const void *', 'const void *']),
  syscall3: libc.func('syscall', 'long', ['long', 'long', 'long', 'long']),
  setgroups: libc.func('syscall', 'long', ['long', 'size_t', 'const void *']),
  openat2: libc.func('syscall', 'long', ['long', 'int', 'const void *', 'const void *', 'size_t']),
};

/** Flags of mount(2). */
export const mountFlags = {
  readOnly: 1,
  noSuid: 2,
  noDev: 4,
  noExec: 8,
  remount: 32,
  bind: 4096,
  move: 8192,
  recursive: 16384,
  private: 1 << 18,
  slave: 1 << 19,
  strictAtime: 1 << 24,
} as const;

/** mount(2). Paths are relative to the calling thread's root. */
export function mount(
  source: string | null,
  target: string,
  type: string | null,
  flags: number,
  data: string | null,
): void {
  const optional = (text: string | null): Buffer | null => (text === null ? null : cString(text));
  check(
    bound.mount(optional(source), cString(target), optional(type), flags, optional(data)) as number,
    'mount',
    target,
  );
}

/** umount2(2); `detach` is MNT_DETACH. */
export function unmount(target: string, options: { readonly detach: boolean }): void {
  check(bound.umount2(cString(target), options.detach ? 2 : 0) as number, 'umount2', target);
}

/** Flags of unshare(2). */
export const namespaces = {
  fileSystem: 0x200,
  mount: 0x20000,
  uts: 0x4000000,
  ipc: 0x8000000,
  user: 0x10000000,
  pid: 0x20000000,
  network: 0x40000000,
} as const;

/** unshare(2) of the calling thread alone. */
export function unshare(flags: number): void {
  check(bound.unshare(flags) as number, 'unshare');
}

const systemCallNumbers: Readonly<
  Record<
    string,
    | {
        pivot_root: number;
        setresuid: number;
        setresgid: number;
        setgroups: number;
        capset: number;
        keyctl: number;
        openat2: number;
      }
    | undefined
  >
> = {
  x64: {
    pivot_root: 155,
    setresuid: 117,
    setresgid: 119,
    setgroups: 116,
    capset: 126,
    keyctl: 250,
    openat2: 437,
  },
  arm64: {
    pivot_root: 41,
    setresuid: 147,
    setresgid: 149,
    setgroups: 159,
    capset: 91,
    keyctl: 219,
    openat2: 437,
  },
};

function numbers(): NonNullable<(typeof systemCallNumbers)[string]> {
  const known = systemCallNumbers[process.arch];
  if (known === undefined) throw new Error(`system call numbers for ${process.arch} are not known`);
  return known;
}

/** pivot_root(2). */
export function pivotRoot(newRoot: string, putOld: string): void {
  check(
    bound.syscall2(numbers().pivot_root, cString(newRoot), cString(putOld)) as number,
    'pivot_root',
    newRoot,
  );
}

/** chroot(2) of the calling thread (and those that share its file system attributes). */
export function changeRoot(path: string): void {
  check(bound.chroot(cString(path)) as number, 'chroot', path);
}

/** chdir(2) of the calling thread (and those that share its file system attributes). */
export function changeDirectory(path: string): void {
  check(bound.chdir(cString(path)) as number, 'chdir', path);
}

/** sethostname(2) in the calling thread's UTS namespace. */
export function setHostname(name: string): void {
  const bytes = Buffer.from(name);
  check(bound.sethostname(bytes, bytes.length) as number, 'sethostname', name);
}

/**
 * execvp(3): this process becomes another program, under the same process id. It keeps the standard streams, the
 * environment as `process.env` has it now, and the open files named.
 *
 * @returns never; throws {@link SystemCallError} when the program cannot be started.
 */
export function becomeProgram(
  file: string,
  args: readonly string[],
  options: { readonly keepOpen: readonly number[] } = { keepOpen: [] },
): never {
  // Node marks all files to be closed, the standard streams too.
  for (const fd of [0, 1, 2, ...options.keepOpen]) check(bound.fcntl(fd, 2, 0) as number, 'fcntl');
  bound.execvp(file, [file, ...args, null]);
  throw new SystemCallError('execvp', koffi.errno(), file);
}

/** Takes a capability out of the calling thread's bounding set; one that the kernel does not know is ignored. */
export function dropBoundingCapability(capability: number): void {
  bound.prctl(24, capability, 0, 0, 0);
}

/** Sets user and group ids and supplementary groups of the calling thread only (not of the process, as libc would). */
export function setThreadIdentity(identity: {
  readonly uid: number;
  readonly gid: number;
  /** Undefined: they stay as they are. */
  readonly groups: readonly number[] | undefined;
}): void {
  const { uid, gid, groups } = identity;
  if (groups !== undefined)
    check(
      bound.setgroups(
        numbers().setgroups,
        groups.length,
        Buffer.from(Uint32Array.from(groups).buffer),
      ) as number,
      'setgroups',
    );
  check(bound.syscall3(numbers().setresgid, gid, gid, gid) as number, 'setresgid');
  check(bound.syscall3(numbers().setresuid, uid, uid, uid) as number, 'setresuid');
}

/**
 * Does something synchronously as another user, in the calling thread only; a process of root's can go back. It does not
 * have root's capabilities meanwhile. Afterwards the process is as dumpable as the machine says of such processes.
 */
export function asUser<Result>(uid: number, action: () => Result): Result {
  const own = process.geteuid?.() ?? 0;
  if (uid === own) return action();
  check(bound.syscall3(numbers().setresuid, -1, uid, -1) as number, 'setresuid');
  try {
    return action();
  } finally {
    check(bound.syscall3(numbers().setresuid, -1, own, -1) as number, 'setresuid');
  }
}

/** capset(2) of the calling thread: permitted, effective and inheritable sets as bit masks. */
export function setThreadCapabilities(sets: {
  readonly permitted: bigint;
  readonly effective: bigint;
  readonly inheritable: bigint;
}): void {
  const header = Buffer.alloc(8);
  header.writeUInt32LE(0x20080522, 0); // _LINUX_CAPABILITY_VERSION_3, pid 0: this thread
  const data = Buffer.alloc(24);
  for (const half of [0, 1]) {
    const word = (set: bigint): number => Number((set >> BigInt(32 * half)) & 0xffffffffn);
    data.writeUInt32LE(word(sets.effective), 12 * half);
    data.writeUInt32LE(word(sets.permitted), 12 * half + 4);
    data.writeUInt32LE(word(sets.inheritable), 12 * half + 8);
  }
  check(bound.syscall2(numbers().capset, header, data) as number, 'capset');
}

/**
 * Gives the calling thread, and the processes it starts, a new and empty session keyring (keyrings(7)).
 *
 * @returns false when seccomp, as in containers, refuses all keyrings anyway.
 */
export function joinNewKeyring(): boolean {
  const result = Number(bound.syscall3(numbers().keyctl, 1, 0, 0));
  if (result !== -1) return true;
  const errno = koffi.errno();
  if (errno === koffi.os.errno.EPERM || errno === koffi.os.errno.ENOSYS) return false;
  throw new SystemCallError('keyctl', errno);
}

/** prctl(PR_SET_DUMPABLE, 0): no other process of the same user may look into this one. */
export function setNotDumpable(): void {
  check(bound.prctl(4, 0, 0, 0, 0) as number, 'prctl');
}

/**
 * flock(2) on an open file. Never waits.
 *
 * @returns false when another open file holds a conflicting lock.
 */
export function tryLock(fd: number, mode: 'shared' | 'exclusive'): boolean {
  const result = bound.flock(fd, (mode === 'shared' ? 1 : 2) | 4) as number;
  if (result === 0) return true;
  const errno = koffi.errno();
  if (errno === koffi.os.errno.EWOULDBLOCK || errno === koffi.os.errno.EAGAIN) return false;
  throw new SystemCallError('flock', errno);
}

/** Releases what {@link tryLock} took; closing the file does so too. */
export function unlock(fd: number): void {
  check(bound.flock(fd, 8) as number, 'flock');
}

/** mknod(2): a device node, FIFO or socket. `mode` includes the type bits. */
export function makeNode(path: PathBytes, mode: number, major: number, minor: number): void {
  const device =
    (BigInt(minor) & 0xffn) |
    ((BigInt(major) & 0xfffn) << 8n) |
    ((BigInt(minor) & ~0xffn) << 12n) |
    ((BigInt(major) & ~0xfffn) << 32n);
  check(bound.mknod(cString(path), mode, device) as number, 'mknod', path.toString());
}

/** Major and minor number of a device as `stat.rdev` gives it. */
export function deviceNumbers(device: number | bigint): { major: number; minor: number } {
  const value = BigInt(device);
  return {
    major: Number(((value >> 8n) & 0xfffn) | ((value >> 32n) & ~0xfffn)),
    minor: Number((value & 0xffn) | ((value >> 12n) & ~0xffn)),
  };
}

/** Sets access and modification time of a path, not following a link, in nanoseconds since the epoch. */
export function setTimes(path: PathBytes, accessed: bigint, modified: bigint): void {
  const times = Buffer.alloc(32);
  writeTime(times, 0, accessed);
  writeTime(times, 16, modified);
  check(bound.utimensat(-100, cString(path), times, 0x100) as number, 'utimensat', path.toString());
}

function writeTime(target: Buffer, offset: number, nanoseconds: bigint): void {
  let seconds = nanoseconds / 1_000_000_000n;
  let rest = nanoseconds % 1_000_000_000n;
  if (rest < 0n) {
    rest += 1_000_000_000n;
    seconds -= 1n;
  }
  target.writeBigInt64LE(seconds, offset);
  target.writeBigInt64LE(rest, offset + 8);
}

/** The value of an extended attribute of the path itself (links are not followed), or undefined. */
export function getXattr(path: PathBytes, name: string): Buffer | undefined {
  for (let size = 256; ; size *= 16) {
    const value = Buffer.alloc(size);
    const length = Number(bound.lgetxattr(cString(path), cString(name), value, size));
    if (length >= 0) return value.subarray(0, length);
    const errno = koffi.errno();
    const { ENODATA, EOPNOTSUPP, ERANGE } = koffi.os.errno;
    if (errno === ENODATA || errno === EOPNOTSUPP) return undefined;
    if (errno !== ERANGE || size > 65536) throw new SystemCallError('lgetxattr', errno, path.toString());
  }
}

/** Sets an extended attribute of the path itself. */
export function setXattr(path: PathBytes, name: string, value: Uint8Array): void {
  check(
    bound.lsetxattr(cString(path), cString(name), value, value.length, 0) as number,
    'lsetxattr',
    `${path.toString()} ${name}`,
  );
}

/** Removes an extended attribute; one that is not there is no error. */
export function removeXattr(path: PathBytes, name: string): void {
  const result = bound.lremovexattr(cString(path), cString(name)) as number;
  if (result === -1 && koffi.errno() !== koffi.os.errno.ENODATA)
    throw new SystemCallError('lremovexattr', koffi.errno(), path.toString());
}

/** The names of all extended attributes of the path itself, sorted. */
export function listXattrs(path: PathBytes): string[] {
  for (let size = 1024; ; size *= 16) {
    const list = Buffer.alloc(size);
    const length = Number(bound.llistxattr(cString(path), list, size));
    if (length >= 0)
      return list
        .subarray(0, length)
        .toString()
        .split('\0')
        .filter((name) => name !== '')
        .sort();
    const errno = koffi.errno();
    if (errno === koffi.os.errno.EOPNOTSUPP) return [];
    if (errno !== koffi.os.errno.ERANGE || size > 65536)
      throw new SystemCallError('llistxattr', errno, path.toString());
  }
}

/** Flags of open(2) that Node has no constant for. */
export const openFlags = {
  path: 0o10000000,
  closeOnExec: 0o2000000,
  noFollow: 0o400000,
  directory: 0o200000,
} as const;

/**
 * openat2(2) with RESOLVE_IN_ROOT: `path` is resolved as if `rootFd` were the root directory, so neither `..` nor an
 * absolute or hostile link leads out of it.
 *
 * @returns a file descriptor the caller closes.
 */
export function openInRoot(rootFd: number, path: PathBytes, flags: number, mode = 0): number {
  const how = Buffer.alloc(24);
  how.writeBigUInt64LE(BigInt(flags | openFlags.closeOnExec), 0);
  how.writeBigUInt64LE(BigInt(mode), 8);
  how.writeBigUInt64LE(0x10n | 0x02n, 16); // RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
  return check(
    bound.openat2(numbers().openat2, rootFd, cString(path), how, how.length) as number,
    'openat2',
    path.toString(),
  );
}
