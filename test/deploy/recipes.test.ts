import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import packageJson from '../../package.json' with { type: 'json' };
import { executorProgram } from '../../executor/cli.ts';
import { argument, deployed, manifest } from '../support/deployed.ts';
import { type Manifest, parseManifests, readManifests, schemaProblems } from '../support/kubernetes.ts';
import { type Container, type PodSpec, podSecurityViolations } from '../support/pod-security.ts';

const root = join(import.meta.dirname, '../..');
const { version } = packageJson;
const builds = readdirSync(join(root, 'deploy'))
  .filter((name) => /^build-job.*\.yaml$/.test(name))
  .map((name) => [name, deployed(name)] as const);

const text = (file: string): string => readFileSync(join(root, 'deploy/ci', file), 'utf8');

/** Reads `executor` arguments as the executor does. @throws what commander says of a flag that does not exist. */
function parseArguments(args: readonly string[]): Record<string, unknown> {
  const program = executorProgram(new AbortController().signal).exitOverride();
  const build = program.commands.find((command) => command.name() === 'build');
  assert.ok(build !== undefined);
  build.exitOverride().configureOutput({ writeErr: () => undefined });
  const { operands, unknown } = build.parseOptions([...args]);
  assert.deepEqual([...operands, ...unknown], [], args.join(' '));
  return build.opts();
}

/** The executor's arguments in a line of a shell script; words are not split within quotes. */
function shellArguments(script: string): string[] {
  const line = /\/kiln\/bin\/executor\s([^]*)/.exec(script)?.[1] ?? '';
  return [...line.matchAll(/(?:[^\s"']|"[^"]*"|'[^']*')+/g)].map(([word]) => word.replaceAll(/["']/g, ''));
}

interface TektonTask extends Manifest {
  readonly spec: {
    readonly params: readonly { readonly name: string; readonly type?: string; readonly default?: unknown }[];
    readonly workspaces: readonly {
      readonly name: string;
      readonly optional?: boolean;
      readonly mountPath?: string;
      readonly readOnly?: boolean;
    }[];
    readonly results: readonly { readonly name: string }[];
    readonly steps: readonly (Container & { readonly script?: string; readonly computeResources?: object })[];
    readonly volumes: PodSpec['volumes'];
  };
}

interface ArgoTemplate extends Manifest {
  readonly spec: {
    readonly templates: readonly { readonly container: Container }[];
    readonly volumes: PodSpec['volumes'];
    readonly executor: { readonly serviceAccountName: string };
    readonly automountServiceAccountToken: boolean;
  };
}

interface GitlabJob {
  readonly stage: string;
  readonly image: { readonly name: string; readonly entrypoint: readonly string[] };
  readonly script: readonly string[];
  readonly rules: readonly { readonly if: string }[];
}

interface GithubWorkflow {
  readonly jobs: Readonly<
    Record<
      string,
      {
        readonly container: string;
        readonly steps: readonly {
          readonly uses: string;
          readonly with?: Readonly<Record<string, string>>;
        }[];
      }
    >
  >;
}

const tekton = readManifests('deploy/ci/tekton-task.yaml')[0] as TektonTask;
const argo = readManifests('deploy/ci/argo-workflow-template.yaml');
const argoTemplate = argo[0] as ArgoTemplate;
const argoContainer = argoTemplate.spec.templates[0]?.container;
const gitlab = Object.values(
  parseManifests(text('gitlab-ci.yaml'))[0] as unknown as Record<string, GitlabJob>,
);
const github = parseManifests(
  text('github-workflow.yaml').replace(/^on:/m, "'on':"),
)[0] as unknown as GithubWorkflow;
const jenkinsfile = text('Jenkinsfile');
const jenkinsPod = parseManifests(/yaml '''\n([^]*?)'''/.exec(jenkinsfile)?.[1] ?? '')[0] as Manifest & {
  readonly spec: PodSpec;
};
const githubStep = Object.values(github.jobs)[0]?.steps.find(({ uses }) => uses.startsWith('docker://'));

/** Every recipe's arguments for the executor. */
const commandLines: readonly (readonly [name: string, args: readonly string[]])[] = [
  ...builds.map(([name, { container }]) => [name, container.args ?? []] as const),
  [
    'tekton-task.yaml',
    (tekton.spec.steps[0]?.args ?? []).filter((word) => word !== '$(params.EXTRA_ARGS[*])'),
  ],
  ['argo-workflow-template.yaml', argoContainer?.args ?? []],
  ['gitlab-ci.yaml', shellArguments(gitlab[0]?.script[0] ?? '')],
  ['github-workflow.yaml', (githubStep?.with?.args ?? '').replaceAll(/\$\{\{[^}]*\}\}/g, 'x').split(/\s+/)],
  ['Jenkinsfile', shellArguments(/sh '(.*)'/.exec(jenkinsfile)?.[1] ?? '')],
];

/** The containers of all recipes that Kubernetes describes. */
const containers: readonly (readonly [name: string, container: Container])[] = [
  ...builds.map(([name, { container }]) => [name, container] as const),
  ...tekton.spec.steps.map((step) => ['tekton-task.yaml', step] as const),
  ['argo-workflow-template.yaml', argoContainer as Container],
  ['Jenkinsfile', jenkinsPod.spec.containers[0] as Container],
];

describe('the recipes in deploy/', () => {
  for (const [name, args] of commandLines)
    test(`${name}: the executor takes the arguments, and caches, pushes and has scratch space`, () => {
      const flags = parseArguments(args);
      assert.equal((flags.destination as string[]).length, 1);
      assert.equal(flags.cache, true);
      assert.equal(flags.scratchDir, '/scratch');
      assert.notEqual(flags.context, '.');
      assert.ok([undefined, '/cache'].includes(flags.cacheDir as string | undefined));
    });

  test('a flag that does not exist would be found out', () => {
    assert.throws(() => parseArguments(['--context=.', '--cache-directory=/cache']));
    assert.throws(() => parseArguments(['--cache-ttl=soon']));
    assert.deepEqual(shellArguments('x; /kiln/bin/executor --a="$B c" --d'), ['--a=$B c', '--d']);
  });

  test('the images have the names and versions that are built', () => {
    const images = [
      ...containers.map(([, { image }]) => image),
      gitlab[0]?.image.name ?? '',
      githubStep?.uses.replace('docker://', '') ?? '',
    ];
    for (const image of images)
      assert.match(
        image,
        new RegExp(`^registry\\.example/kiln/executor:${version.replaceAll('.', '\\.')}(?:-debug)?$`),
      );
    for (const shell of [
      gitlab[0]?.image.name,
      jenkinsPod.spec.containers[0]?.image,
      tekton.spec.steps[1]?.image,
    ])
      assert.match(shell ?? '', /-debug$/, 'with a shell where one is needed');
  });

  test('every container is root with the capabilities of any, and may gain what sudo needs', () => {
    for (const [name, { securityContext = {} }] of containers) {
      const { capabilities, ...rest } = securityContext;
      assert.equal(rest.runAsUser, 0, name);
      assert.equal(rest.privileged, false, name);
      assert.equal(rest.readOnlyRootFilesystem, undefined, name);
      assert.equal(rest.allowPrivilegeEscalation, undefined, name);
      assert.deepEqual(
        capabilities,
        name === 'build-job-userns.yaml' ? { add: ['SYS_ADMIN'] } : undefined,
        name,
      );
    }
  });

  test('the cache is mounted read-only, scratch space has a limit, and volumes and mounts belong together', () => {
    const pods: readonly (readonly [string, readonly Container[], PodSpec['volumes']])[] = [
      ...builds.map(([name, { pod }]) => [name, pod.containers, pod.volumes] as const),
      ['tekton-task.yaml', tekton.spec.steps, tekton.spec.volumes],
      ['argo-workflow-template.yaml', [argoContainer as Container], argoTemplate.spec.volumes],
      ['Jenkinsfile', jenkinsPod.spec.containers, jenkinsPod.spec.volumes],
    ];
    for (const [name, all, volumes] of pods) {
      const mounts = all.flatMap(({ volumeMounts = [] }) => volumeMounts);
      assert.deepEqual(
        new Set(mounts.map((mount) => mount.name)),
        new Set(volumes.map((volume) => volume.name)),
        name,
      );
      for (const mount of mounts)
        assert.equal(mount.readOnly === true, mount.name !== 'scratch', `${name} ${mount.name}`);
      assert.match(
        volumes.find((volume) => volume.name === 'scratch')?.emptyDir?.sizeLimit ?? '',
        /^[0-9]+Gi$/,
        name,
      );
      for (const { persistentVolumeClaim } of volumes)
        if (persistentVolumeClaim !== undefined)
          assert.deepEqual(persistentVolumeClaim, { claimName: 'kiln-cache', readOnly: true }, name);
    }
  });

  for (const [name, runtimeClassName] of [
    ['build-job-gvisor.yaml', 'gvisor'],
    ['build-job-kata.yaml', 'kata'],
  ] as const)
    test(`${name}: differs from the ordinary build in its runtime class and its names alone`, () => {
      const strip = (value: unknown): string =>
        JSON.stringify(value)
          .replaceAll(`hello-${runtimeClassName}`, 'hello')
          .replaceAll(`hello:${runtimeClassName}`, 'hello:latest');
      const ordinary = deployed('build-job.yaml');
      const { pod } = deployed(name);
      const { runtimeClassName: found, ...rest } = pod;
      assert.equal(found, runtimeClassName);
      assert.equal(strip(rest), strip(ordinary.pod));
      assert.deepEqual(podSecurityViolations(pod, 'baseline'), []);
    });

  test('build-job-userns.yaml: is what docs/rootless.md says that a pod needs, and its namespace admits it', () => {
    const { pod, container, workload } = deployed('build-job-userns.yaml');
    assert.equal(pod.hostUsers, false);
    assert.equal(pod.securityContext?.fsGroup, undefined);
    assert.deepEqual(container.securityContext?.appArmorProfile, { type: 'Unconfined' });
    assert.deepEqual(podSecurityViolations(pod, 'baseline'), ['capability SYS_ADMIN', 'AppArmor']);
    const namespace = manifest('build-job-userns.yaml', 'Namespace');
    assert.equal(namespace.metadata.name, workload.metadata.namespace);
    assert.equal(namespace.metadata.labels?.['pod-security.kubernetes.io/enforce'], 'privileged');
    const volume = pod.volumes.find(({ name }) => name === 'scratch');
    assert.equal(argument(container, 'scratch-dir'), '/scratch');
    assert.ok(volume?.emptyDir !== undefined, 'an overlay cannot lie on an overlay');
    const guide = readFileSync(join(root, 'docs/rootless.md'), 'utf8');
    for (const word of [
      'hostUsers: false',
      'SYS_ADMIN',
      'appArmorProfile: { type: Unconfined }',
      'do not set `fsGroup`',
    ])
      assert.ok(guide.includes(word), word);
  });

  test('the template for Argo is what the schemas of Argo and Kubernetes describe, and its sidecar alone has a token', async () => {
    assert.deepEqual(await schemaProblems(argo), []);
    assert.equal(argoTemplate.spec.automountServiceAccountToken, false);
    const account = argoTemplate.spec.executor.serviceAccountName;
    for (const kind of ['ServiceAccount', 'Role', 'RoleBinding'])
      assert.ok(
        argo.some((one) => one.kind === kind && one.metadata.name === account),
        kind,
      );
    const [template] = argoTemplate.spec.templates;
    const wrong = {
      ...argoTemplate,
      spec: { ...argoTemplate.spec, templates: [{ ...template, inputz: {} }] },
    };
    assert.notDeepEqual(await schemaProblems([wrong]), [], 'a mistake would be found');
  });

  test('the Task for Tekton has fields of tekton.dev/v1, steps that are containers, and uses what it declares', async () => {
    assert.deepEqual([tekton.apiVersion, tekton.kind], ['tekton.dev/v1', 'Task']);
    const known = ['description', 'params', 'workspaces', 'results', 'steps', 'volumes'];
    assert.deepEqual(
      Object.keys(tekton.spec).filter((field) => !known.includes(field)),
      [],
    );
    // A step is a container, but for a script in place of a command and the name of its resources.
    const pod = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'steps' },
      spec: {
        containers: tekton.spec.steps.map(({ script: _script, computeResources, ...step }) => ({
          ...step,
          ...(computeResources === undefined ? {} : { resources: computeResources }),
        })),
        volumes: tekton.spec.volumes,
      },
    };
    assert.deepEqual(await schemaProblems([pod]), []);
    const used = [...JSON.stringify(tekton.spec).matchAll(/\$\((params|workspaces|results)\.([A-Za-z_]+)/g)];
    assert.ok(used.length > 5);
    for (const [, kind = '', name] of used)
      assert.ok(
        tekton.spec[kind as 'params' | 'workspaces' | 'results'].some((one) => one.name === name),
        name,
      );
    assert.deepEqual(
      tekton.spec.params.filter((param) => param.default === undefined).map(({ name }) => name),
      ['IMAGE'],
    );
    assert.doesNotMatch(tekton.spec.steps[1]?.script ?? '', /\$\(params/, 'no parameter is run by the shell');
    const cache = tekton.spec.workspaces.find(({ name }) => name === 'cache');
    assert.deepEqual([cache?.mountPath, cache?.optional, cache?.readOnly], ['/cache', true, true]);
  });

  test('the pod for Jenkins is what the schemas of Kubernetes describe, and its shell outlives a build in place', async () => {
    const pod = { ...jenkinsPod, metadata: { ...jenkinsPod.metadata, name: 'jenkins' } };
    assert.deepEqual(await schemaProblems([pod]), []);
    assert.deepEqual(podSecurityViolations(jenkinsPod.spec, 'baseline'), []);
    const [container] = jenkinsPod.spec.containers;
    assert.deepEqual(container?.command, ['/kiln/busybox/cat']);
    assert.match(jenkinsfile, /container\(name: 'kiln', shell: '\/kiln\/busybox\/sh'\)/);
    assert.equal(
      (jenkinsfile.match(/[{}]/g) ?? []).filter((brace) => brace === '{').length * 2,
      jenkinsfile.match(/[{}]/g)?.length,
    );
  });

  test('the job for GitLab starts a shell instead of the entrypoint, and has fields of a job', () => {
    assert.equal(gitlab.length, 1);
    const [job] = gitlab;
    assert.deepEqual(Object.keys(job ?? {}), ['stage', 'image', 'script', 'rules']);
    assert.deepEqual(job?.image.entrypoint, ['']);
    assert.equal(job?.script.length, 1);
  });

  test('the workflow for GitHub gives the step its token, and builds in a container of its own', () => {
    assert.deepEqual(Object.keys(github), ['name', 'on', 'permissions', 'jobs']);
    const [job, ...others] = Object.values(github.jobs);
    assert.equal(others.length, 0);
    assert.notEqual(job?.container, undefined);
    assert.equal(githubStep?.with?.entrypoint, '/kiln/bin/executor');
    assert.match(text('github-workflow.yaml'), /GITHUB_TOKEN: \$\{\{ secrets\.GITHUB_TOKEN \}\}/);
  });

  test('the README names all of them', () => {
    const readme = readFileSync(join(root, 'deploy/README.md'), 'utf8');
    for (const name of [
      ...builds.map(([name]) => name),
      ...readdirSync(join(root, 'deploy/ci')).map((name) => `ci/${name}`),
    ])
      assert.ok(readme.includes(`\`${name}\``), name);
  });
});
