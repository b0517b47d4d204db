import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { parseDocument } from 'yaml';
import { mount, unmount } from '../../src/os/index.ts';
import { eventually } from '../support/daemon.ts';
import { ConfigMapMount } from '../support/daemon-process.ts';
import { deployed, manifest } from '../support/deployed.ts';
import { pushTestImage, randomLayer } from '../support/images.ts';
import { readManifests } from '../support/kubernetes.ts';
import { type Ended, temporaryDirectory } from '../support/programs.ts';
import { freePort, startRegistry, type TestRegistry } from '../support/registry.ts';
import { type RuncPod, startRuncPod } from '../support/runc-pod.ts';

const daemonSet = deployed('warmer-hostpath.yaml');
const probes = ['startupProbe', 'livenessProbe', 'readinessProbe'].map((name) => {
  const { container } = daemonSet as unknown as {
    container: Record<string, { httpGet: { path: string } } | undefined>;
  };
  return container[name]?.httpGet.path ?? `no ${name}`;
});
const metricsPath = daemonSet.workload.spec.template.metadata.annotations?.['prometheus.io/path'] ?? '';

const login = { user: 'kiln-warmer', password: 'may pull' };

/** A registry that wants a password, with one image. */
interface Ground extends AsyncDisposable {
  readonly registry: TestRegistry;
  readonly image: string;
  readonly directory: string;
}

async function openGround(): Promise<Ground> {
  await using cleanup = new AsyncDisposableStack();
  const scratch = cleanup.use(await temporaryDirectory());
  const registry = cleanup.use(await startRegistry(login));
  const image = `${registry.host}/team/base:1`;
  await pushTestImage(scratch.path, image, { layers: [await randomLayer(scratch.path, 'file')] }, login);
  const kept = cleanup.move();
  const dispose = (): Promise<void> => kept.disposeAsync();
  return { registry, image, directory: scratch.path, [Symbol.asyncDispose]: dispose };
}

/** The DaemonSet's pod on a node. */
interface Node extends AsyncDisposable {
  readonly pod: RuncPod;
  readonly config: ConfigMapMount;
  /** Status and text of an answer of the pod. */
  get(path: string): Promise<{ status: number; text: string }>;
}

/** The ConfigMap's warmer.yaml, with other images and the ground's registry. */
function configuration({ registry }: Ground, images: readonly string[]): string {
  const { data } = manifest('warmer-hostpath.yaml', 'ConfigMap') as unknown as {
    data: Record<string, string>;
  };
  const document = parseDocument(data['warmer.yaml'] ?? '');
  document.set('images', images);
  document.set('registries', [{ host: registry.host, insecure: true }]);
  return document.toString();
}

async function startNode(ground: Ground): Promise<Node> {
  await using cleanup = new AsyncDisposableStack();
  const directory = await mkdtemp(join(ground.directory, 'node-'));
  // In memory, so that the disk policy of the ConfigMap finds room whatever machine this is.
  const volume = join(directory, 'volume');
  await mkdir(volume);
  mount('tmpfs', volume, 'tmpfs', 0, 'size=256m,mode=755');
  cleanup.defer(() => unmount(volume, { detach: true }));
  const config = new ConfigMapMount(join(directory, 'config'));
  await config.update({ 'warmer.yaml': configuration(ground, [ground.image]) });
  const secret = new ConfigMapMount(join(directory, 'credentials'));
  const auths = { [ground.registry.host]: { username: login.user, password: login.password } };
  await secret.update({ '.dockerconfigjson': JSON.stringify({ auths }) });
  const address = `127.0.0.1:${await freePort()}`;
  const pod = cleanup.use(
    await startRuncPod(daemonSet, {
      program: 'warmer',
      args: [...(daemonSet.container.args ?? []), `--listen=${address}`],
      volumes: { cache: volume, config: config.directory, credentials: secret.directory },
    }),
  );
  const kept = cleanup.move();
  return {
    pod,
    config,
    get: async (path) => {
      const answer = await fetch(`http://${address}${path}`);
      return { status: answer.status, text: await answer.text() };
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

/** Waits until the pod is ready; fails at once when it ends, and otherwise with what its probe said last. */
async function ready(node: Node): Promise<void> {
  let over: Ended | undefined;
  void node.pod.ended.then((ended) => (over = ended));
  let said = 'nothing';
  await eventually(async () => {
    assert.equal(over, undefined, `the pod ended: ${over?.stderr ?? ''}`);
    const answer = await node.get(`${probes[2] ?? ''}?verbose`).catch(() => undefined);
    said = answer?.text ?? said;
    return answer?.status === 200 ? true : undefined;
  }, 'the pod to be ready').catch((error: unknown) => {
    throw new Error(`its probe said: ${said}`, { cause: error });
  });
}

describe("the DaemonSet's pod", () => {
  let ground: Ground;
  before(async () => {
    ground = await openGround();
  });
  after(() => ground[Symbol.asyncDispose]());

  test('gets ready, answers its probes, and runs with its rights and no others', async () => {
    await using node = await startNode(ground);
    await ready(node);
    for (const path of [...probes, metricsPath]) assert.equal((await node.get(path)).status, 200, path);
    assert.match((await node.get(metricsPath)).text, /^kiln_warm_images\{state="warm"\} 1$/m);

    const pid = await node.pod.pid();
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const field = (name: string): string => new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1] ?? '';
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD and SETFCAP by their numbers.
    const six = [0, 1, 3, 4, 27, 31].reduce((set, bit) => set | (1n << BigInt(bit)), 0n);
    for (const set of ['CapPrm', 'CapEff', 'CapBnd']) assert.equal(BigInt(`0x${field(set)}`), six, set);
    assert.equal(field('NoNewPrivs'), '1');
    assert.equal(field('Seccomp'), '2', 'a filter');
    const rootMount = readFileSync(`/proc/${pid}/mountinfo`, 'utf8')
      .split('\n')
      .find((line) => line.split(' ')[4] === '/');
    assert.match(rootMount ?? '', / ro[, ]/);
  });

  test('has the metrics that the alerts are made of', async () => {
    await using node = await startNode(ground);
    await ready(node);
    const { text } = await node.get(metricsPath);
    const rules = readManifests('deploy/prometheus-operator.yaml').find(
      ({ kind }) => kind === 'PrometheusRule',
    );
    const names = new Set(JSON.stringify(rules).match(/\bkiln_[a-z_]+/g));
    assert.ok(names.size > 5);
    for (const name of names) assert.match(text, new RegExp(`^# TYPE ${name} `, 'm'));
    const labelled = [...JSON.stringify(rules).matchAll(/\b(kiln_[a-z_]+)\{([a-z]+)=/g)];
    for (const [, name = '', label = ''] of labelled)
      assert.match(text, new RegExp(`^${name}\\{[^}]*${label}=`, 'm'), `${name} has the label ${label}`);
  });

  test('takes up a changed ConfigMap, and goes on with the old one when the new one is wrong', async () => {
    await using node = await startNode(ground);
    await ready(node);
    const state = async (name: string): Promise<string | undefined> =>
      new RegExp(`^${name} (.*)$`, 'm').exec((await node.get(metricsPath)).text)?.[1];
    await node.config.update({ 'warmer.yaml': 'imges: []' });
    await eventually(
      async () => ((await state('kiln_config_last_reload_successful')) === '0' ? true : undefined),
      'the mistake shows',
    );
    assert.equal((await node.get(probes[2] ?? '')).status, 200);
    const digest = 'kiln_warm_images\\{state="warm"\\}';
    assert.equal(await state(digest), '1');
    await node.config.update({ 'warmer.yaml': configuration(ground, []) });
    await eventually(
      async () => ((await state('kiln_config_last_reload_successful')) === '1' ? true : undefined),
      'the new one is in force',
    );
  });

  test('ends well within its grace period, with exit code 0', async () => {
    await using node = await startNode(ground);
    await ready(node);
    const started = performance.now();
    await node.pod.kill('TERM');
    const { code } = await node.pod.ended;
    assert.equal(code, 0);
    const { terminationGracePeriodSeconds } = daemonSet.pod as unknown as {
      terminationGracePeriodSeconds: number;
    };
    assert.ok(performance.now() - started < (terminationGracePeriodSeconds * 1000) / 3);
  });
});
