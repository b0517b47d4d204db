/** The parts of a pod's specification that Pod Security admission looks at, and those that tests look at. */
export interface PodSpec {
  readonly hostNetwork?: boolean;
  readonly hostPID?: boolean;
  readonly hostIPC?: boolean;
  readonly hostUsers?: boolean;
  readonly runtimeClassName?: string;
  readonly automountServiceAccountToken?: boolean;
  readonly enableServiceLinks?: boolean;
  readonly serviceAccountName?: string;
  readonly priorityClassName?: string;
  readonly nodeSelector?: Readonly<Record<string, string>>;
  readonly securityContext?: SecurityContext & { readonly fsGroup?: number; readonly sysctls?: unknown };
  readonly initContainers?: readonly Container[];
  readonly containers: readonly Container[];
  readonly volumes: readonly Volume[];
}

export interface SecurityContext {
  readonly runAsUser?: number;
  readonly runAsGroup?: number;
  readonly runAsNonRoot?: boolean;
  readonly privileged?: boolean;
  readonly allowPrivilegeEscalation?: boolean;
  readonly readOnlyRootFilesystem?: boolean;
  readonly procMount?: string;
  readonly capabilities?: { readonly add?: readonly string[]; readonly drop?: readonly string[] };
  readonly seccompProfile?: { readonly type: string };
  readonly appArmorProfile?: { readonly type: string };
  readonly seLinuxOptions?: { readonly type?: string; readonly user?: string; readonly role?: string };
}

export interface Container {
  readonly name: string;
  readonly image: string;
  readonly command?: readonly string[];
  readonly args?: readonly string[];
  readonly env?: readonly { readonly name: string; readonly value?: string }[];
  readonly ports?: readonly {
    readonly name: string;
    readonly containerPort: number;
    readonly hostPort?: number;
  }[];
  readonly securityContext?: SecurityContext;
  readonly volumeMounts: readonly {
    readonly name: string;
    readonly mountPath: string;
    readonly subPath?: string;
    readonly readOnly?: boolean;
  }[];
}

/** Besides its name a volume has one more field, named after its type. */
export interface Volume {
  readonly name: string;
  readonly hostPath?: { readonly path: string };
  readonly persistentVolumeClaim?: { readonly claimName: string; readonly readOnly?: boolean };
  readonly configMap?: { readonly name: string };
  readonly secret?: {
    readonly secretName: string;
    readonly items?: readonly { readonly key: string; readonly path: string }[];
  };
  readonly emptyDir?: { readonly sizeLimit?: string };
}

const baselineCapabilities = [
  ...['AUDIT_WRITE', 'CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'KILL', 'MKNOD', 'NET_BIND_SERVICE'],
  ...['SETFCAP', 'SETGID', 'SETPCAP', 'SETUID', 'SYS_CHROOT'],
];
const baselineSelinuxTypes = ['', 'container_t', 'container_init_t', 'container_kvm_t', 'container_engine_t'];
const restrictedVolumes = [
  ...['configMap', 'csi', 'downwardAPI', 'emptyDir', 'ephemeral', 'persistentVolumeClaim', 'projected'],
  'secret',
];

/**
 * What a pod does that a level of the Pod Security Standards forbids, one short phrase each. Empty: it is admitted.
 * Written after https://kubernetes.io/docs/concepts/security/pod-security-standards/.
 */
export function podSecurityViolations(pod: PodSpec, level: 'baseline' | 'restricted'): string[] {
  return level === 'baseline' ? baseline(pod) : [...baseline(pod), ...restricted(pod)];
}

function contexts(pod: PodSpec): SecurityContext[] {
  return [...(pod.initContainers ?? []), ...pod.containers].map(({ securityContext }) => ({
    ...pod.securityContext,
    ...securityContext,
  }));
}

function baseline(pod: PodSpec): string[] {
  const found: string[] = [];
  for (const name of ['hostNetwork', 'hostPID', 'hostIPC'] as const) if (pod[name] === true) found.push(name);
  if (pod.volumes.some(({ hostPath }) => hostPath !== undefined)) found.push('hostPath');
  if (pod.securityContext?.sysctls !== undefined) found.push('sysctls');
  for (const { ports } of pod.containers)
    if (ports?.some(({ hostPort }) => hostPort !== undefined) === true) found.push('hostPort');
  for (const context of contexts(pod)) {
    if (context.privileged === true) found.push('privileged');
    for (const name of context.capabilities?.add ?? [])
      if (!baselineCapabilities.includes(name)) found.push(`capability ${name}`);
    if (context.seccompProfile?.type === 'Unconfined') found.push('seccomp');
    if (context.appArmorProfile?.type === 'Unconfined') found.push('AppArmor');
    if ((context.procMount ?? 'Default') !== 'Default') found.push('procMount');
    const { type = '', user, role } = context.seLinuxOptions ?? {};
    if (!baselineSelinuxTypes.includes(type) || user !== undefined || role !== undefined)
      found.push('SELinux');
  }
  return found;
}

function restricted(pod: PodSpec): string[] {
  const found: string[] = [];
  for (const volume of pod.volumes)
    for (const type of Object.keys(volume))
      if (type !== 'name' && !restrictedVolumes.includes(type)) found.push(`volume ${type}`);
  for (const context of contexts(pod)) {
    if (context.allowPrivilegeEscalation !== false) found.push('privilege escalation');
    if (context.runAsNonRoot !== true || context.runAsUser === 0) found.push('root');
    if (context.seccompProfile === undefined) found.push('no seccomp profile');
    if (context.capabilities?.drop?.includes('ALL') !== true) found.push('capabilities not dropped');
    for (const name of context.capabilities?.add ?? [])
      if (name !== 'NET_BIND_SERVICE') found.push(`capability ${name}`);
  }
  return found;
}
