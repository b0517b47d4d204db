import { join } from 'node:path';
import { type Manifest, readManifests } from './kubernetes.ts';
import { defaultCapabilities, type PodOptions } from './pod.ts';
import type { Container, PodSpec } from './pod-security.ts';

/** A manifest with a pod template: a DaemonSet, a Job, or what a CronJob makes a Job of. */
export interface Workload extends Manifest {
  readonly spec: {
    readonly selector?: { readonly matchLabels: Readonly<Record<string, string>> };
    readonly template: {
      readonly metadata: {
        readonly labels: Readonly<Record<string, string>>;
        readonly annotations?: Readonly<Record<string, string>>;
      };
      readonly spec: PodSpec;
    };
  };
}

/** What the manifests of deploy/ run: the pod, and its only container. */
export interface Deployed {
  readonly workload: Workload;
  readonly pod: PodSpec;
  readonly container: Container;
}

/** The DaemonSet, Job or CronJob of a file. @param file below deploy/. */
export function deployed(file: string): Deployed {
  const found = readManifests(`deploy/${file}`).find((manifest) =>
    ['DaemonSet', 'Job', 'CronJob'].includes(manifest.kind),
  ) as (Workload & { spec: { jobTemplate?: Pick<Workload, 'spec'> } }) | undefined;
  const workload = found && { ...found, spec: found.spec.jobTemplate?.spec ?? found.spec };
  const pod = workload?.spec.template.spec;
  const [container, ...others] = pod?.containers ?? [];
  if (workload === undefined || pod === undefined || container === undefined || others.length > 0)
    throw new Error(`${file} has no workload with one container`);
  return { workload, pod, container };
}

/** The only manifest of a kind in a file, or of those the one in a namespace. */
export function manifest<Spec>(
  file: string,
  kind: string,
  namespace?: string,
): Manifest & { readonly spec: Spec } {
  const found = readManifests(`deploy/${file}`).filter(
    (one) => one.kind === kind && (namespace === undefined || one.metadata.namespace === namespace),
  );
  if (found[0] === undefined || found.length > 1) throw new Error(`${file} has ${found.length} of ${kind}`);
  return found[0] as Manifest & { readonly spec: Spec };
}

/** The value of `--flag=value` in a container's arguments. */
export function argument(container: Container, flag: string): string | undefined {
  return container.args?.find((word) => word.startsWith(`--${flag}=`))?.slice(flag.length + 3);
}

/**
 * How a runtime would run the container of a manifest: its rights, its environment and its mounts, and nothing of this
 * test's own.
 *
 * @param volumes directories of this machine that stand for the pod's volumes, by the volumes' names.
 */
export function podOptions(
  { pod, container }: Deployed,
  volumes: Readonly<Record<string, string>>,
): PodOptions {
  const context = { ...pod.securityContext, ...container.securityContext };
  const { seccompProfile, privileged, capabilities: { add = [], drop = [] } = {} } = context;
  if (seccompProfile?.type !== 'RuntimeDefault' || privileged !== false)
    throw new Error('a test pod has the default seccomp profile and is not privileged');
  const kept = drop.includes('ALL') ? [] : defaultCapabilities.filter((name) => !drop.includes(name));
  return {
    capabilities: [...new Set([...kept, ...add])],
    user: context.runAsUser ?? 0,
    readOnlyRoot: context.readOnlyRootFilesystem ?? false,
    noNewPrivileges: context.allowPrivilegeEscalation === false,
    userNamespace: pod.hostUsers === false,
    env: Object.fromEntries((container.env ?? []).map(({ name, value = '' }) => [name, value])),
    mounts: container.volumeMounts.map(({ name, mountPath, subPath = '', readOnly = false }) => {
      const source = volumes[name];
      if (source === undefined) throw new Error(`no directory stands for the volume ${name}`);
      return { source: join(source, subPath), target: mountPath, readOnly };
    }),
  };
}
