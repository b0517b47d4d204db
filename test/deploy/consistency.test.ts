import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import packageJson from '../../package.json' with { type: 'json' };
import { argument, deployed, manifest } from '../support/deployed.ts';
import { type Manifest, readManifests } from '../support/kubernetes.ts';
import { podSecurityViolations } from '../support/pod-security.ts';
import { parseConfiguration } from '../../warmer/daemon/configuration.ts';

const root = join(import.meta.dirname, '../..');
const warmers = ['warmer-hostpath.yaml', 'warmer-local-pv.yaml'];
const workloads = [...warmers, 'build-job.yaml'];
const level = 'pod-security.kubernetes.io/enforce';

interface LabelSelector {
  readonly matchLabels: Readonly<Record<string, string>>;
}
interface VolumeSpec {
  readonly local: { readonly path: string };
  readonly mountOptions?: readonly string[];
  readonly storageClassName: string;
  readonly accessModes: readonly string[];
  readonly claimRef: { readonly namespace: string; readonly name: string };
  readonly nodeAffinity: {
    readonly required: {
      readonly nodeSelectorTerms: readonly {
        readonly matchExpressions: readonly { readonly key: string; readonly values: readonly string[] }[];
      }[];
    };
  };
}
interface ClaimSpec {
  readonly volumeName: string;
  readonly storageClassName: string;
  readonly accessModes: readonly string[];
}

describe('the manifests in deploy/, taken together', () => {
  for (const file of warmers) {
    const { workload, pod, container } = deployed(file);
    const { labels, annotations = {} } = workload.spec.template.metadata;

    test(`${file}: every selector of the warmer's pods selects them`, () => {
      const selectors = [
        workload.spec.selector,
        manifest<{ podSelector: LabelSelector }>(file, 'NetworkPolicy').spec.podSelector,
        manifest<{ selector: LabelSelector }>('prometheus-operator.yaml', 'PodMonitor').spec.selector,
      ];
      for (const selector of selectors) {
        assert.ok(selector !== undefined && Object.keys(selector.matchLabels).length > 0);
        for (const [name, value] of Object.entries(selector.matchLabels)) assert.equal(labels[name], value);
      }
      const { labels: ofBuilds } = deployed('build-job.yaml').workload.spec.template.metadata;
      assert.notDeepEqual({ ...ofBuilds, ...workload.spec.selector?.matchLabels }, ofBuilds, 'but no build');
    });

    test(`${file}: ports have one name and number everywhere`, () => {
      const [port, ...others] = container.ports ?? [];
      assert.ok(port !== undefined && others.length === 0);
      assert.equal(annotations['prometheus.io/port'], String(port.containerPort));
      const probes = container as unknown as Record<string, { httpGet: { port: string } }>;
      for (const probe of ['startupProbe', 'livenessProbe', 'readinessProbe'])
        assert.equal(probes[probe]?.httpGet.port, port.name, probe);
      const monitor = manifest<{ podMetricsEndpoints: readonly { port: string; path: string }[] }>(
        'prometheus-operator.yaml',
        'PodMonitor',
      );
      for (const endpoint of monitor.spec.podMetricsEndpoints) {
        assert.equal(endpoint.port, port.name);
        assert.equal(annotations['prometheus.io/path'], endpoint.path);
      }
      const policy = manifest<{ ingress: readonly { ports: readonly { port: string }[] }[] }>(
        file,
        'NetworkPolicy',
      );
      const open = policy.spec.ingress.flatMap(({ ports }) => ports.map((one) => one.port));
      assert.deepEqual(open, [port.name]);
    });

    test(`${file}: what the pod refers to is there`, () => {
      const here = new Set(
        readManifests(`deploy/${file}`).map(({ kind, metadata }) => `${kind} ${metadata.name}`),
      );
      for (const name of [
        `PriorityClass ${pod.priorityClassName ?? ''}`,
        `ServiceAccount ${pod.serviceAccountName ?? ''}`,
        `ConfigMap ${pod.volumes.find(({ configMap }) => configMap !== undefined)?.configMap?.name ?? ''}`,
      ])
        assert.ok(here.has(name), name);
      const { data } = manifest(file, 'ConfigMap') as unknown as { data: Readonly<Record<string, string>> };
      const config = argument(container, 'config') ?? '';
      const mounted = container.volumeMounts.find(({ mountPath }) => mountPath === dirname(config));
      assert.equal(mounted?.name, 'config');
      assert.equal(mounted.subPath, undefined, 'so that changes arrive');
      assert.deepEqual(
        Object.keys(data).map((name) => join(dirname(config), name)),
        [config],
      );
    });

    test(`${file}: the daemon takes the ConfigMap, and finds what it names where the pod has it`, () => {
      const { data } = manifest(file, 'ConfigMap') as unknown as { data: Readonly<Record<string, string>> };
      const path = argument(container, 'config') ?? '';
      const configuration = parseConfiguration(path, data[basename(path)] ?? '');
      assert.ok(configuration.images.length > 0);
      assert.equal(configuration.listen.http?.port, container.ports?.[0]?.containerPort);
      assert.equal(configuration.listen.socket, true);
      const credentials = container.volumeMounts.find(({ name }) => name === 'credentials');
      assert.equal(configuration.byDefault.pullSecret, credentials?.mountPath);
      // The kubelet removes images from 85 % on, and ends pods when less than 10 % is free.
      assert.ok(configuration.disk.highWaterMark < 0.85);
      assert.deepEqual(configuration.disk.minFree, { share: 0.12 });
    });

    test(`${file}: the warmer runs with the rights that were tried, and no others`, () => {
      assert.deepEqual(container.securityContext, {
        runAsUser: 0,
        runAsGroup: 0,
        privileged: false,
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: {
          drop: ['ALL'],
          add: ['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'MKNOD', 'SETFCAP'],
        },
      });
    });

    test(`${file}: the namespace's Pod Security level admits the pod, and the next one would not`, () => {
      const namespace = manifest(file, 'Namespace');
      const violations = podSecurityViolations(pod, 'baseline');
      if (file === 'warmer-hostpath.yaml') {
        assert.equal(namespace.metadata.labels?.[level], 'privileged');
        assert.deepEqual(violations, ['hostPath'], 'nothing else takes that level');
      } else {
        assert.equal(namespace.metadata.labels?.[level], 'baseline');
        assert.deepEqual(violations, []);
      }
      assert.ok(podSecurityViolations(pod, 'restricted').includes('root'));
    });
  }

  test('both variants of the warmer differ in their volume and in nothing else', () => {
    const [hostPath, local] = warmers.map((file) => deployed(file).workload.spec);
    assert.ok(hostPath !== undefined && local !== undefined);
    const without = (spec: typeof local): unknown => {
      const { volumes, ...pod } = spec.template.spec;
      return { ...spec, template: { ...spec.template, spec: { ...pod, volumes: volumes.slice(1) } } };
    };
    assert.deepEqual(without(local), without(hostPath));
    assert.deepEqual(
      [hostPath, local].map(({ template }) => template.spec.volumes[0]?.name),
      ['cache', 'cache'],
    );
  });

  for (const file of workloads) {
    const { pod, container } = deployed(file);

    test(`${file}: no pod has a service-account token, or a part of its host's`, () => {
      assert.equal(pod.automountServiceAccountToken, false);
      assert.equal(pod.enableServiceLinks, false);
      for (const name of ['hostNetwork', 'hostPID', 'hostIPC'] as const) assert.equal(pod[name], undefined);
      assert.deepEqual(pod.securityContext, { seccompProfile: { type: 'RuntimeDefault' } });
    });

    test(`${file}: every volume is mounted, and every mount has a volume`, () => {
      assert.deepEqual(
        new Set(container.volumeMounts.map(({ name }) => name)),
        new Set(pod.volumes.map(({ name }) => name)),
      );
      for (const { name, mountPath, readOnly } of container.volumeMounts) {
        const writable = file === 'build-job.yaml' ? ['scratch'] : ['cache'];
        assert.equal(readOnly !== true, writable.includes(name), mountPath);
      }
    });

    test(`${file}: --cache-dir is where the cache volume is mounted`, () => {
      const mount = container.volumeMounts.find(({ name }) => name === 'cache');
      assert.equal(argument(container, 'cache-dir'), mount?.mountPath);
    });

    test(`${file}: the image is this version's, under a name that nobody can push to`, () => {
      const program = file === 'build-job.yaml' ? 'executor' : 'warmer';
      assert.equal(container.image, `registry.example/kiln/${program}:${packageJson.version}`);
    });
  }

  test('the warmer and the builds are brought to the same nodes, and see the same directory', () => {
    const label = 'kiln/builds';
    for (const file of workloads) assert.equal(deployed(file).pod.nodeSelector?.[label], 'true', file);
    const volumes = ['warmer-local-pv.yaml', 'build-namespace.yaml'].map((file) =>
      manifest<VolumeSpec>(file, 'PersistentVolume'),
    );
    const directory = deployed('warmer-hostpath.yaml').pod.volumes[0]?.hostPath?.path;
    for (const { spec } of volumes) {
      assert.equal(spec.local.path, directory);
      const [term, ...others] = spec.nodeAffinity.required.nodeSelectorTerms;
      assert.equal(others.length, 0);
      assert.deepEqual(
        term?.matchExpressions.map(({ key, values }) => [key, values]),
        [[label, ['true']]],
      );
    }
    assert.notEqual(volumes[0]?.metadata.name, volumes[1]?.metadata.name);
  });

  for (const [file, workload] of [
    ['warmer-local-pv.yaml', 'warmer-local-pv.yaml'],
    ['build-namespace.yaml', 'build-job.yaml'],
  ] as const)
    test(`${file}: volume and claim are reserved for each other, and the pod uses the claim`, () => {
      const volume = manifest<VolumeSpec>(file, 'PersistentVolume');
      const claim = manifest<ClaimSpec>(file, 'PersistentVolumeClaim');
      const { name, namespace } = claim.metadata;
      assert.equal(volume.spec.claimRef.name, name);
      assert.equal(volume.spec.claimRef.namespace, namespace);
      assert.equal(claim.spec.volumeName, volume.metadata.name);
      assert.deepEqual([volume.spec.storageClassName, claim.spec.storageClassName], ['', '']);
      assert.deepEqual(claim.spec.accessModes, volume.spec.accessModes);
      const { workload: user, pod } = deployed(workload);
      assert.equal(user.metadata.namespace, namespace);
      const used = pod.volumes.find((one) => one.persistentVolumeClaim !== undefined)?.persistentVolumeClaim;
      assert.equal(used?.claimName, name);
    });

  test('builds cannot write the cache, whether or not their pods say so', () => {
    const { spec } = manifest<VolumeSpec>('build-namespace.yaml', 'PersistentVolume');
    assert.deepEqual(spec.mountOptions, ['ro']);
    assert.deepEqual(spec.accessModes, ['ReadOnlyMany']);
    const { pod } = deployed('build-job.yaml');
    const cache = pod.volumes.find(({ name }) => name === 'cache');
    assert.equal(cache?.persistentVolumeClaim?.readOnly, true);
  });

  test("a build's pod is admitted by its namespace's level, and has a limit to its scratch space", () => {
    const { pod, container } = deployed('build-job.yaml');
    const namespace = manifest('build-namespace.yaml', 'Namespace');
    assert.equal(namespace.metadata.labels?.[level], 'baseline');
    assert.deepEqual(podSecurityViolations(pod, 'baseline'), []);
    const scratch = container.volumeMounts.find(
      ({ mountPath }) => mountPath === argument(container, 'scratch-dir'),
    );
    const volume = pod.volumes.find(({ name }) => name === scratch?.name);
    assert.match(volume?.emptyDir?.sizeLimit ?? '', /^[0-9]+Gi$/);
  });

  test('the credentials are where the programs look for them', () => {
    const secrets = readManifests('deploy/registry-credentials.yaml') as (Manifest & {
      type: string;
      stringData: Readonly<Record<string, string>>;
    })[];
    for (const { type, stringData } of secrets) {
      assert.equal(type, 'kubernetes.io/dockerconfigjson');
      assert.ok('auths' in (JSON.parse(stringData['.dockerconfigjson'] ?? '') as object));
    }
    for (const file of workloads) {
      const { workload, pod } = deployed(file);
      const used = pod.volumes.find(({ secret }) => secret !== undefined)?.secret?.secretName;
      assert.ok(
        secrets.some(
          ({ metadata: { name, namespace } }) => name === used && namespace === workload.metadata.namespace,
        ),
        file,
      );
    }
    const { pod, container } = deployed('build-job.yaml');
    const directory = container.env?.find(({ name }) => name === 'DOCKER_CONFIG')?.value;
    assert.equal(container.volumeMounts.find(({ name }) => name === 'credentials')?.mountPath, directory);
    const items = pod.volumes.find(({ secret }) => secret !== undefined)?.secret?.items;
    assert.deepEqual(items, [{ key: '.dockerconfigjson', path: 'config.json' }]);
  });

  test("the README's commands put your names in the place of ours", async () => {
    const readme = await readFile(join(root, 'deploy/README.md'), 'utf8');
    const commands = [...readme.matchAll(/^(sed .*) \| kubectl apply -f -$/gm)].map(
      ([, command = '']) => command,
    );
    assert.equal(commands.length, 2);
    for (const command of commands) {
      const env = { ...process.env, REGISTRY: 'mine.test/kiln', DESTINATION: 'mine.test/apps' };
      const text = execFileSync('sh', ['-c', command], { cwd: root, env, encoding: 'utf8' });
      const shown = text.replaceAll(/^\s*#.*$/gm, '');
      assert.match(shown, /image: mine\.test\/kiln\/(warmer|executor):/);
      assert.doesNotMatch(shown, /registry\.example/);
    }
  });

  test('the README names every file and every setting that the table of capabilities explains', async () => {
    const readme = await readFile(join(root, 'deploy/README.md'), 'utf8');
    for (const file of [
      ...workloads,
      'build-namespace.yaml',
      'prune-cache.yaml',
      'prometheus-operator.yaml',
      'registry-credentials.yaml',
    ])
      assert.ok(readme.includes(`\`${file}\``), file);
    const explained = [...readme.matchAll(/^\| `([A-Z_]+)` \| /gm)].map(([, name]) => name);
    const { container } = deployed('warmer-hostpath.yaml');
    assert.deepEqual(
      explained.filter((name) => name?.startsWith('E_') !== true),
      container.securityContext?.capabilities?.add,
    );
  });
});
