import { execFile, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  chmod,
  chown,
  copyFile,
  mkdir,
  mkdtemp,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { packagesDigest } from '../../scripts/images/packages.ts';
import { assemblePrograms, assembleRuntime } from '../../scripts/kiln-root.ts';
import { mount, unmount } from '../../src/os/index.ts';
import { cached } from './cache.ts';
import { mountIdMapped, podIds } from './idmap.ts';
import { type Ended, ended } from './programs.ts';
import { runtimeDefaultSeccomp } from './seccomp.ts';

const execute = promisify(execFile);

/** The capabilities that containerd gives a container by default. */
export const defaultCapabilities = [
  ...['CHOWN', 'DAC_OVERRIDE', 'FSETID', 'FOWNER', 'MKNOD', 'NET_RAW', 'SETGID', 'SETUID', 'SETFCAP'],
  ...['SETPCAP', 'NET_BIND_SERVICE', 'SYS_CHROOT', 'KILL', 'AUDIT_WRITE'],
];

/** What containerd hides of /proc and /sys, and what it makes read-only. */
const maskedPaths = [
  ...['/proc/acpi', '/proc/asound', '/proc/kcore', '/proc/keys', '/proc/latency_stats', '/proc/timer_list'],
  ...[
    '/proc/timer_stats',
    '/proc/sched_debug',
    '/sys/firmware',
    '/sys/devices/virtual/powercap',
    '/proc/scsi',
  ],
];
const readonlyPaths = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

export interface PodMount {
  /** A directory or file of this machine. */
  readonly source: string;
  /** Where the container sees it. */
  readonly target: string;
  readonly readOnly?: boolean;
  /** In a user namespace: false leaves the ids as they are on the machine. */
  readonly mapped?: boolean;
}

export interface PodOptions {
  readonly mounts?: readonly PodMount[];
  /** Instead of the default ones. */
  readonly capabilities?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Where the container's writable layer lies; default in memory. */
  readonly storage?: string;
  /** As `readOnlyRootFilesystem: true`. */
  readonly readOnlyRoot?: boolean;
  /** As `allowPrivilegeEscalation: false`. */
  readonly noNewPrivileges?: boolean;
  /** Numeric user, default 0. */
  readonly user?: number;
  /** As with `hostUsers: false`: the container is root of a user namespace, and all that is mounted has mapped ids. */
  readonly userNamespace?: boolean;
}

/**
 * An ordinary pod of a cluster: one container of Kiln's files on an overlay, under runc with what containerd and the
 * kubelet give by default. It shares this machine's network, so that it reaches the test's registry.
 */
export interface Pod extends AsyncDisposable {
  /** The directory of the container's root file system, while it exists. */
  readonly root: string;
  /** Runs a command as the first process of the container, and waits for both to end. */
  run(args: readonly string[], options?: PodRunOptions): Promise<Ended>;
  /** Starts the container with a process that only waits. */
  start(): Promise<void>;
  /** Runs a command beside the first process, as `kubectl exec` does. */
  exec(args: readonly string[], options?: PodRunOptions): Promise<Ended>;
}

export interface PodRunOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Called once runc runs. @param kill sends a signal to the container's first process. */
  readonly onStart?: (kill: (signal: string) => Promise<void>) => void;
  readonly onOutput?: (text: string) => void;
}

/** The directories that, on top of each other, are the root of Kiln's container; the first is the upper one. */
export async function kilnLayers(scratch: string): Promise<string[]> {
  const lock = await readFile(join(import.meta.dirname, '../../package-lock.json'));
  const packages = createHash('sha256')
    .update(lock)
    .update(await packagesDigest());
  const name = `kiln-runtime-${packages.digest('hex').slice(0, 12)}`;
  const programs = join(scratch, 'programs');
  const [runtime] = await Promise.all([cached(name, assembleRuntime), assemblePrograms(programs)]);
  for (const directory of ['proc', 'sys', 'dev', 'etc']) await mkdir(join(programs, directory));
  return [programs, runtime];
}

/** @param layers what {@link kilnLayers} gave. */
export async function openPod(layers: readonly string[], options: PodOptions = {}): Promise<Pod> {
  await using cleanup = new AsyncDisposableStack();
  const bundle = await mkdtemp(join(tmpdir(), 'kiln-pod-'));
  cleanup.defer(() => rm(bundle, { recursive: true, force: true }));
  // The root of a user namespace is nobody here.
  await chmod(bundle, 0o755);
  const storage = options.storage ?? join(bundle, 'memory');
  if (options.storage === undefined) {
    await mkdir(storage);
    mount('tmpfs', storage, 'tmpfs', 0, 'size=8g');
    cleanup.defer(() => unmount(storage, { detach: true }));
  }
  const root = join(bundle, 'rootfs');
  for (const directory of [root, join(storage, 'upper'), join(storage, 'work')])
    await mkdir(directory, { recursive: true });
  const shown = options.userNamespace === true ? showMapped(bundle, cleanup) : showAsIs;
  const lowers = await Promise.all(layers.map(shown));
  // As containerd does: layers are shown with mapped ids, what the container writes has the ids of its root.
  if (options.userNamespace === true) await chown(join(storage, 'upper'), podIds.first, podIds.first);
  const data = `lowerdir=${lowers.join(':')},upperdir=${storage}/upper,workdir=${storage}/work`;
  mount('overlay', root, 'overlay', 0, data);
  cleanup.defer(() => unmount(root, { detach: true }));
  const given = [...(await kubeletMounts(join(bundle, 'kubelet'))), ...(options.mounts ?? [])];
  const mounts = await Promise.all(
    given.map(async (volume) =>
      volume.mapped === false ? volume : { ...volume, source: await shown(volume.source) },
    ),
  );
  const id = `kiln-pod-${randomBytes(6).toString('hex')}`;
  cleanup.defer(() => remove(id));
  const kept = cleanup.move();
  const configure = (process: object): Promise<void> =>
    writeFile(join(bundle, 'config.json'), JSON.stringify(specification(process, mounts, options)));
  return {
    root,
    run: async (args, run = {}) => {
      await configure(processOf(args, options, run.env));
      return runc(id, ['run', '--bundle', bundle, id], run).finally(() => remove(id));
    },
    start: async () => {
      await configure(processOf(['/kiln/bin/node', '-e', 'setInterval(() => {}, 1e9)'], options));
      // Its output would keep a pipe open for as long as the container runs.
      const child = spawn('runc', ['run', '--detach', '--bundle', bundle, id], { stdio: 'ignore' });
      const code = await new Promise((resolve) => child.once('exit', resolve));
      if (code !== 0) throw new Error(`runc could not start the pod (${String(code)})`);
    },
    exec: async (args, run = {}) => {
      const file = join(bundle, `${randomBytes(6).toString('hex')}.json`);
      await writeFile(file, JSON.stringify(processOf(args, options, run.env)));
      return runc(id, ['exec', '--process', file, id], run);
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

const showAsIs = (source: string): Promise<string> => Promise.resolve(source);

/** Makes what shows a directory or file with a pod's ids, at a place of its own below the bundle. */
function showMapped(bundle: string, cleanup: AsyncDisposableStack): (source: string) => Promise<string> {
  let count = 0;
  return async (source) => {
    const target = join(bundle, `mapped-${count++}`);
    if ((await stat(source)).isDirectory()) await mkdir(target);
    else await writeFile(target, '');
    await mountIdMapped(source, target);
    cleanup.defer(() => unmount(target, { detach: true }));
    return target;
  };
}

/** runc waits ten seconds for the container's end, which on a busy machine is not always enough. */
async function remove(id: string, attempts = 3): Promise<void> {
  try {
    await execute('runc', ['delete', '--force', id]);
  } catch (error) {
    if (attempts <= 1) throw error;
    await remove(id, attempts - 1);
  }
}

async function runc(id: string, args: readonly string[], options: PodRunOptions): Promise<Ended> {
  const child = spawn('runc', args, { stdio: ['ignore', 'pipe', 'pipe'] });
  options.onStart?.(async (signal) => void (await execute('runc', ['kill', id, signal])));
  const { onOutput } = options;
  if (onOutput !== undefined)
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => onOutput(String(data)));
  return ended(child);
}

/** The files that the kubelet mounts into every container. */
async function kubeletMounts(directory: string): Promise<PodMount[]> {
  const token = join(directory, 'token');
  const version = join(token, '..2024_01_01');
  await mkdir(version, { recursive: true });
  // The kubelet writes such volumes behind links, so that they change in one moment.
  await symlink('..2024_01_01', join(token, '..data'));
  for (const name of ['token', 'ca.crt', 'namespace']) {
    await writeFile(join(version, name), `service account ${name}`);
    await symlink(`..data/${name}`, join(token, name));
  }
  await writeFile(join(directory, 'hosts'), '127.0.0.1\tlocalhost\n::1\tlocalhost\n');
  await writeFile(join(directory, 'hostname'), 'kiln-pod\n');
  await writeFile(join(directory, 'termination-log'), '');
  await copyFile('/etc/resolv.conf', join(directory, 'resolv.conf'));
  return [
    { source: join(directory, 'hosts'), target: '/etc/hosts' },
    { source: join(directory, 'hostname'), target: '/etc/hostname' },
    { source: join(directory, 'resolv.conf'), target: '/etc/resolv.conf' },
    { source: join(directory, 'termination-log'), target: '/dev/termination-log' },
    { source: token, target: '/var/run/secrets/kubernetes.io/serviceaccount', readOnly: true },
  ];
}

function processOf(
  args: readonly string[],
  options: PodOptions,
  env: Readonly<Record<string, string>> = {},
): object {
  const capabilities = (options.capabilities ?? defaultCapabilities).map((name) => `CAP_${name}`);
  const variables = {
    PATH: '/kiln/bin',
    HOME: '/root',
    CI: 'true',
    KUBERNETES_SERVICE_HOST: '10.0.0.1',
    MALLOC_ARENA_MAX: '2',
    ...options.env,
    ...env,
  };
  return {
    terminal: false,
    user: { uid: options.user ?? 0, gid: options.user ?? 0 },
    args,
    env: Object.entries(variables).map(([name, value]) => `${name}=${value}`),
    cwd: '/',
    capabilities: {
      bounding: capabilities,
      ...((options.user ?? 0) === 0 ? { effective: capabilities, permitted: capabilities } : {}),
    },
    noNewPrivileges: options.noNewPrivileges ?? false,
  };
}

const mapping = { containerID: 0, hostID: podIds.first, size: podIds.count };

function specification(
  process: object,
  mounts: readonly PodMount[],
  { userNamespace = false, capabilities = defaultCapabilities, readOnlyRoot = false }: PodOptions,
): object {
  const quiet = ['nosuid', 'noexec', 'nodev'];
  const system = [
    { destination: '/proc', type: 'proc', source: 'proc', options: quiet },
    { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755'] },
    {
      destination: '/dev/pts',
      type: 'devpts',
      source: 'devpts',
      options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
    },
    {
      destination: '/dev/shm',
      type: 'tmpfs',
      source: 'shm',
      options: [...quiet, 'mode=1777', 'size=65536k'],
    },
    { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: quiet },
    { destination: '/sys', type: 'bind', source: '/sys', options: ['rbind', 'ro', ...quiet] },
  ];
  const volumes = mounts.map(({ source, target, readOnly }) => ({
    destination: target,
    type: 'bind',
    source,
    options: ['rbind', 'rprivate', readOnly === true ? 'ro' : 'rw'],
  }));
  return {
    ociVersion: '1.0.2',
    process,
    root: { path: 'rootfs', readonly: readOnlyRoot },
    hostname: 'kiln-pod',
    mounts: [...system, ...volumes],
    linux: {
      namespaces: ['pid', 'ipc', 'uts', 'mount', ...(userNamespace ? ['user'] : [])].map((type) => ({
        type,
      })),
      ...(userNamespace ? { uidMappings: [mapping], gidMappings: [mapping] } : {}),
      maskedPaths,
      readonlyPaths,
      seccomp: runtimeDefaultSeccomp(capabilities),
    },
  };
}
