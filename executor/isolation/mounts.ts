import {
  chmodSync,
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  unlinkSync,
} from 'node:fs';
import { dirname, join, posix } from 'node:path';
import {
  changeDirectory,
  hasId,
  idMap,
  inUserNamespace,
  mount,
  mountFlags,
  mountPoints,
  namespaces,
  resolveInRoot,
  setTimes,
  unshare,
} from '../../src/os/index.ts';
import { systemErrorCode } from '../../src/support/index.ts';
import type { OverlaySpace } from './messages.ts';

/*
 * Everything here acts on the calling worker thread alone: unshare(2) gives the thread its own mount namespace and its
 * own root and working directory, so nothing is ever mounted where the host or another step could see it, and all of it
 * vanishes with the thread and its children, even after kill -9.
 */

/** Gives the calling thread a mount namespace of its own, and for RUN also ipc, uts and (for its children) pid. */
export function enterNamespaces(kind: 'files' | 'processes'): void {
  const apart = namespaces.fileSystem | namespaces.mount;
  unshare(kind === 'files' ? apart : apart | namespaces.ipc | namespaces.uts | namespaces.pid);
  mount(null, '/', null, mountFlags.private | mountFlags.recursive, null);
}

/**
 * Mounts the overlay at `merged` and returns its path. Lower directories are named through short links, since mount(2)
 * takes one page of options; the link after the last one is the layer of mount points, which only RUN steps have below
 * them; `redirect_dir`, `metacopy` and `index` are off so that the upper directory is a plain diff. In a user namespace
 * overlayfs keeps its attributes where users may (`userxattr`), and there only `nofollow` turns redirects off.
 */
export function mountOverlay(
  space: OverlaySpace,
  options: { readonly stubs: boolean } = { stubs: false },
): string {
  changeDirectory(space.directory);
  const lower = linkNames(space.lowerCount + (options.stubs ? 1 : 0));
  const how = inUserNamespace() ? 'userxattr,redirect_dir=nofollow' : 'redirect_dir=off';
  const data = `lowerdir=${lower},upperdir=upper,workdir=work,${how},metacopy=off,index=off`;
  // A step may make device nodes, for they belong to some images, but not reach the machine's disks through them.
  const flags = mountFlags.noDev;
  // So the kernel marks a directory that was mounted as below; here it is sure that nothing has crashed since.
  rmSync(join(space.directory, 'work/work/incompat'), { recursive: true, force: true });
  // What a step syncs need not reach the disk: after a crash its directory is thrown away. Linux knows this since 5.10.
  try {
    mount('overlay', 'merged', 'overlay', flags, `${data},volatile`);
  } catch (error) {
    if (systemErrorCode(error) !== 'EINVAL') throw error;
    mount('overlay', 'merged', 'overlay', flags, data);
  }
  return join(space.directory, 'merged');
}

/** Mounts a stack of layers (lowest first) read-only at `source`. The links `s0`… have been made beside it. */
export function mountSource(space: OverlaySpace, count: number): string {
  return mountLayers(space, { prefix: 's', count, at: 'source' });
}

/**
 * Mounts a stack of layers read-only at a directory of the space, in which links to them have been made. With `writable`
 * what is written goes to `upper` and `work` with that prefix.
 */
export function mountLayers(
  { directory }: OverlaySpace,
  stack: {
    readonly prefix: string;
    readonly count: number;
    readonly at: string;
    readonly writable?: boolean;
  },
): string {
  const { prefix, count, at, writable = false } = stack;
  changeDirectory(directory);
  // Always an overlay, of which one layer is not enough: bound alone, a layer would show its marks of deleted files.
  const names = `${linkNames(count, prefix)}${count === 1 ? ':empty' : ''}`;
  const how = inUserNamespace() ? ',userxattr' : '';
  const upper = writable ? `,upperdir=${prefix}upper,workdir=${prefix}work` : '';
  const flags = mountFlags.noDev | (writable ? 0 : mountFlags.readOnly);
  mount('overlay', at, 'overlay', flags, `lowerdir=${names}${upper}${how}`);
  return join(directory, at);
}

function linkNames(count: number, prefix = ''): string {
  return Array.from({ length: count }, (_, index) => `${prefix}${index}`).join(':');
}

const devices = ['null', 'zero', 'full', 'random', 'urandom', 'tty'];
const maskedFiles = ['proc/kcore', 'proc/keys', 'proc/timer_list', 'proc/sched_debug', 'proc/latency_stats'];
const maskedDirectories = [
  'proc/acpi',
  'proc/scsi',
  'proc/asound',
  'sys/firmware',
  'sys/devices/virtual/powercap',
];
const readOnlyPaths = ['proc/sys', 'proc/sysrq-trigger', 'proc/irq', 'proc/bus', 'proc/fs'];

/** Collects the paths that had to be made to mount something on them. */
export class MountPoints {
  readonly #root: string;
  readonly made: string[] = [];

  constructor(root: string) {
    this.#root = root;
  }

  /** The real path of a mount point inside the root, made when it is missing. */
  prepare(path: string, kind: 'directory' | 'file'): string {
    const resolved = resolveInRoot(this.#root, path, { followLast: true });
    if (resolved.stat === undefined) this.#make(resolved.path, kind);
    return resolved.path;
  }

  #make(path: string, kind: 'directory' | 'file'): void {
    const parent = dirname(path);
    if (!existsSync(parent)) this.#make(parent, 'directory');
    keepingTimes(parent, () => {
      if (kind === 'directory') mkdirSync(path, 0o755);
      else closeSync(openSync(path, 'wx', 0o644));
    });
    this.made.push(`/${posix.relative(this.#root, path)}`);
  }
}

/**
 * Takes the mount points that a step left empty out of its upper directory, so that neither its layer nor a later step has
 * them. What the step put in their way is left alone.
 */
export function removeMountPoints(upper: string, made: readonly string[]): void {
  for (const point of [...made].reverse()) {
    const { path, stat } = resolveInRoot(upper, point, { followLast: false });
    if (path !== join(upper, point) || stat === undefined) continue;
    if (stat.isDirectory() ? readdirSync(path).length > 0 : !stat.isFile() || stat.size > 0) continue;
    keepingTimes(dirname(path), () => (stat.isDirectory() ? rmdirSync(path) : unlinkSync(path)));
  }
}

/** Changes what is in a directory without changing its times, by which a layer would count it as changed. */
export function keepingTimes(directory: string, change: () => void): void {
  const { atimeNs, mtimeNs } = lstatSync(directory, { bigint: true });
  change();
  setTimes(directory, atimeNs, mtimeNs);
}

/**
 * Mounts /dev and /sys and the three files of the network as a container has them.
 *
 * @returns where /proc is to be mounted, which the init does.
 */
export function mountSystem(root: string, space: OverlaySpace, points: MountPoints): string {
  const proc = points.prepare('proc', 'directory');
  mountDevices(points.prepare('dev', 'directory'));
  mountSys(points.prepare('sys', 'directory'));
  for (const name of space.files) {
    const path = resolveInRoot(root, `etc/${name}`, { followLast: true });
    if (path.stat !== undefined && !path.stat.isFile()) continue;
    mount(join(space.directory, name), points.prepare(`etc/${name}`, 'file'), null, mountFlags.bind, null);
  }
  return proc;
}

/**
 * Binds /sys read-only, and nothing that is mounted below it. In a user namespace what came from outside is locked
 * together (mount_namespaces(7)), so there all of it is bound and what is below covered: a user may own a part of
 * the cgroup tree, and steps must not reach it.
 */
function mountSys(sys: string): void {
  const quiet = mountFlags.noSuid | mountFlags.noDev | mountFlags.noExec;
  const whole = inUserNamespace() ? mountFlags.recursive : 0;
  mount('/sys', sys, null, mountFlags.bind | whole, null);
  mount(null, sys, null, mountFlags.bind | mountFlags.remount | mountFlags.readOnly | quiet, null);
  const below = mountPoints().filter((point) => point.startsWith(`${sys}/`));
  for (const path of new Set(outermost(below)))
    if (lstatSync(path, { throwIfNoEntry: false })?.isDirectory() === true)
      mount('tmpfs', path, 'tmpfs', mountFlags.readOnly, 'size=0');
}

/** Those paths that lie below no other one. */
export function outermost(paths: readonly string[]): string[] {
  return paths.filter((path) => !paths.some((other) => path.startsWith(`${other}/`)));
}

function mountDevices(dev: string): void {
  const flags = mountFlags.noSuid | mountFlags.noDev | mountFlags.strictAtime;
  mount('tmpfs', dev, 'tmpfs', flags, 'mode=755,size=65536k');
  for (const name of devices) {
    const path = join(dev, name);
    closeSync(openSync(path, 'wx', 0o666));
    mount(`/dev/${name}`, path, null, mountFlags.bind, null);
  }
  for (const name of ['pts', 'shm', 'mqueue']) mkdirSync(join(dev, name), 0o755);
  mount(
    'devpts',
    join(dev, 'pts'),
    'devpts',
    mountFlags.noSuid | mountFlags.noExec,
    // The group tty, where there is one.
    `newinstance,ptmxmode=0666,mode=0620${hasId(idMap('gid'), 5) ? ',gid=5' : ''}`,
  );
  mount(
    'shm',
    join(dev, 'shm'),
    'tmpfs',
    mountFlags.noSuid | mountFlags.noDev | mountFlags.noExec,
    'mode=1777,size=65536k',
  );
  mount(
    'mqueue',
    join(dev, 'mqueue'),
    'mqueue',
    mountFlags.noSuid | mountFlags.noDev | mountFlags.noExec,
    null,
  );
  symlinkSync('pts/ptmx', join(dev, 'ptmx'));
  symlinkSync('/proc/self/fd', join(dev, 'fd'));
  for (const [index, name] of ['stdin', 'stdout', 'stderr'].entries())
    symlinkSync(`/proc/self/fd/${index}`, join(dev, name));
  chmodSync(dev, 0o755);
}

/** Hides what /proc and /sys tell of the host, and makes its switches read-only, as runc does by default. */
export function maskPaths(root: string): void {
  // The image may have links in these places, which must not lead out of it.
  const inside = (path: string): ReturnType<typeof resolveInRoot> =>
    resolveInRoot(root, path, { followLast: true });
  for (const path of maskedFiles.map(inside))
    if (path.stat !== undefined) mount(inside('dev/null').path, path.path, null, mountFlags.bind, null);
  for (const path of maskedDirectories.map(inside))
    if (path.stat?.isDirectory() === true) mount('tmpfs', path.path, 'tmpfs', mountFlags.readOnly, 'size=0');
  const { bind, noDev, noExec, noSuid, readOnly, recursive, remount } = mountFlags;
  for (const { path, stat } of readOnlyPaths.map(inside)) {
    if (stat === undefined) continue;
    mount(path, path, null, bind | recursive, null);
    mount(null, path, null, bind | remount | readOnly | noSuid | noDev | noExec, null);
  }
}
