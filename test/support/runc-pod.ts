import { execFile, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { defaultSeccomp } from './containers-seccomp.ts';
import type { Deployed } from './deployed.ts';
import type { Container, PodSpec } from './pod-security.ts';
import { type Ended, ended } from './programs.ts';

const execute = promisify(execFile);
const project = join(import.meta.dirname, '../..');

/** What a container has when its manifest says nothing (containerd). */
const defaultCapabilities = [
  ...['AUDIT_WRITE', 'CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'KILL', 'MKNOD', 'NET_BIND_SERVICE'],
  ...['NET_RAW', 'SETFCAP', 'SETGID', 'SETPCAP', 'SETUID', 'SYS_CHROOT'],
];

export interface RuncPodOptions {
  /** Directories of this machine that stand for the pod's volumes, by the volumes' names. */
  readonly volumes: Readonly<Record<string, string>>;
  /** What the image starts: one of Kiln's programs, from its TypeScript. */
  readonly program: 'executor' | 'warmer';
  /** In place of the manifest's arguments. */
  readonly args?: readonly string[];
  /** Capabilities that the manifest gives and this run does not. */
  readonly without?: readonly string[];
}

/** A container that runs. It is killed when disposed. */
export interface RuncPod extends AsyncDisposable {
  /** Of its first process, as this machine sees it. */
  pid(): Promise<number>;
  kill(signal: string): Promise<void>;
  readonly ended: Promise<Ended>;
}

/**
 * Runs the container of a manifest under runc as a container runtime would: with exactly its user, capabilities, seccomp
 * profile, no_new_privs, mounts and read-only root. Its root has the system's libraries and this project in place of an
 * image's files, and it shares the machine's network, to reach the test's registry.
 */
export async function startRuncPod({ pod, container }: Deployed, options: RuncPodOptions): Promise<RuncPod> {
  const bundle = await mkdtemp(join(tmpdir(), 'kiln-bundle-'));
  const name = `kiln-test-${randomBytes(6).toString('hex')}`;
  await makeRoot(join(bundle, 'rootfs'));
  const configuration = await runtimeConfiguration(bundle, { pod, container }, options);
  await writeFile(join(bundle, 'config.json'), JSON.stringify(configuration));
  const child = spawn('runc', ['run', '--bundle', bundle, name], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const end = ended(child);
  return {
    ended: end,
    pid: async () => {
      const { stdout } = await execute('runc', ['state', name]);
      return (JSON.parse(stdout) as { pid: number }).pid;
    },
    kill: async (signal) => void (await execute('runc', ['kill', name, signal])),
    [Symbol.asyncDispose]: async () => {
      await execute('runc', ['delete', '--force', name]);
      await end;
      await rm(bundle, { recursive: true, force: true });
    },
  };
}

/** Directories to mount on, and the links of a system with one /usr. */
async function makeRoot(root: string): Promise<void> {
  for (const directory of ['dev', 'etc', 'proc', 'root', 'source', 'sys', 'tmp', 'usr'])
    await mkdir(join(root, directory), { recursive: true });
  for (const link of ['bin', 'sbin', 'lib', 'lib64']) await symlink(`usr/${link}`, join(root, link));
}

/** What a container runtime is told, on top of what `runc spec` writes. */
async function runtimeConfiguration(
  bundle: string,
  { pod, container }: { pod: PodSpec; container: Container },
  options: RuncPodOptions,
): Promise<object> {
  execFileSync('runc', ['spec', '--bundle', bundle]);
  const template = JSON.parse(await readFile(join(bundle, 'config.json'), 'utf8')) as {
    process: object;
    mounts: { type: string }[];
    linux: { namespaces: { type: string }[]; resources?: unknown };
  };
  const context = { ...pod.securityContext, ...container.securityContext };
  const capabilities = capabilitiesOf(context.capabilities, options.without ?? []);
  const { resources: _resources, ...linux } = template.linux;
  return {
    ...template,
    process: {
      ...template.process,
      ...processOf(container, options),
      user: { uid: context.runAsUser ?? 0, gid: context.runAsGroup ?? 0 },
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      noNewPrivileges: context.allowPrivilegeEscalation === false,
      rlimits: [],
    },
    root: { path: 'rootfs', readonly: context.readOnlyRootFilesystem === true },
    mounts: [...template.mounts.filter(({ type }) => type !== 'cgroup'), ...mountsOf(container, options)],
    linux: {
      ...linux,
      namespaces: linux.namespaces.filter(({ type }) => type !== 'network' && type !== 'cgroup'),
      ...(context.seccompProfile?.type === 'RuntimeDefault'
        ? { seccomp: await defaultSeccomp(capabilities) }
        : {}),
    },
  };
}

function capabilitiesOf(
  { add = [], drop = [] }: { readonly add?: readonly string[]; readonly drop?: readonly string[] } = {},
  without: readonly string[],
): string[] {
  const kept = drop.includes('ALL') ? [] : defaultCapabilities.filter((name) => !drop.includes(name));
  return [...new Set([...kept, ...add])]
    .filter((name) => !without.includes(name))
    .map((name) => `CAP_${name}`);
}

function processOf(container: Container, { program, args = container.args ?? [] }: RuncPodOptions): object {
  const env = Object.fromEntries((container.env ?? []).map(({ name, value = '' }) => [name, value]));
  const variables = { PATH: '/usr/sbin:/usr/bin', HOME: '/root', CI: 'true', ...env };
  return {
    terminal: false,
    args: ['/source/node_modules/node/bin/node', `/source/${program}/main.ts`, ...args],
    env: Object.entries(variables).map(([name, value]) => `${name}=${value}`),
    cwd: '/',
  };
}

function mountsOf(container: Container, { volumes }: RuncPodOptions): object[] {
  const bind = (source: string, destination: string, readOnly: boolean): object => ({
    type: 'bind',
    source,
    destination,
    options: ['rbind', 'rprivate', readOnly ? 'ro' : 'rw'],
  });
  const system = ['/usr', '/etc/resolv.conf', '/etc/hosts'].map((path) => bind(path, path, true));
  const ofVolumes = container.volumeMounts.map(({ name, mountPath, subPath = '', readOnly }) => {
    const source = volumes[name];
    if (source === undefined) throw new Error(`no directory stands for the volume ${name}`);
    return bind(join(source, subPath), mountPath, readOnly === true);
  });
  return [...system, bind(project, '/source', true), ...ofVolumes];
}
