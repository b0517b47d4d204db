import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { getXattr } from '../../src/os/index.ts';
import { type AwkwardLayer, awkwardLayers, capabilityNeeds, Tree } from '../support/awkward-image.ts';
import { deployed } from '../support/deployed.ts';
import { pushTestImage } from '../support/images.ts';
import { type Ended, temporaryDirectory } from '../support/programs.ts';
import { startRegistry, type TestRegistry } from '../support/registry.ts';
import { startRuncPod } from '../support/runc-pod.ts';
import { listTree, rawSocketCapability } from '../support/trees.ts';

const daemonSet = deployed('warmer-hostpath.yaml');

describe("the warmer with the rights of its DaemonSet's pod", () => {
  let scratch: AsyncDisposable & { readonly path: string };
  let registry: TestRegistry;
  before(async () => {
    scratch = await temporaryDirectory();
    registry = await startRegistry();
    await mkdir(join(scratch.path, 'empty'));
  });
  after(async () => {
    await registry[Symbol.asyncDispose]();
    await scratch[Symbol.asyncDispose]();
  });

  async function push(name: string, layers: readonly AwkwardLayer[]): Promise<string> {
    const image = `${registry.host}/${name}:1`;
    await pushTestImage(join(scratch.path, `push-${name}`), image, {
      layers: layers.map(({ file }) => file),
    });
    return image;
  }

  /** `warmer once` in the pod, on a volume as the kubelet makes it. */
  async function warm(image: string, volume: string, without: readonly string[] = []): Promise<Ended> {
    await mkdir(volume, { mode: 0o755 });
    const empty = join(scratch.path, 'empty');
    await using pod = await startRuncPod(daemonSet, {
      program: 'warmer',
      args: ['once', '--cache-dir=/cache', `--image=${image}`],
      volumes: { cache: volume, config: empty, credentials: empty },
      without,
    });
    return await pod.ended;
  }

  const layersOf = (volume: string): string[] =>
    readdirSync(join(volume, 'layers')).filter((name) => /^[0-9a-f]{64}$/.test(name));

  test('unpacks whatever a layer can hold, as it was packed', async () => {
    const layers = awkwardLayers(join(scratch.path, 'awkward'));
    const volume = join(scratch.path, 'volume');
    const ended = await warm(await push('awkward', layers), volume);
    assert.equal(ended.code, 0, ended.stderr);
    const trees = layersOf(volume).map((name) => join(volume, 'layers', name, 'fs'));
    const lower = trees.find((tree) => readdirSync(tree).includes('tmp'));
    const upper = trees.find((tree) => tree !== lower);
    assert.ok(lower !== undefined && upper !== undefined && trees.length === 2);
    const format = '%P %y %m %U:%G %n %l';
    assert.deepEqual(listTree(lower, format), listTree(layers[0]?.tree ?? '', format));
    const capable = getXattr(join(lower, 'usr/bin/ping'), 'security.capability');
    assert.deepEqual(capable, rawSocketCapability);
    assert.ok(listTree(upper).includes('etc/gone c 0 0:0'), 'a deleted file');
  });

  for (const [capability, make] of Object.entries(capabilityNeeds))
    test(`could not do without ${capability}, and would say so`, async () => {
      const name = capability.toLowerCase();
      const tree = new Tree(join(scratch.path, name));
      make(tree);
      const image = await push(name, [tree.pack(join(scratch.path, `${name}.tar.gz`))]);
      const volume = join(scratch.path, `volume-${name}`);
      const ended = await warm(image, volume, [capability]);
      assert.equal(ended.code, 3, ended.stderr);
      assert.match(
        ended.stderr,
        new RegExp(`the capability ${capability} is missing:.*E_CAPABILITY_MISSING`),
      );
      assert.match(ended.stderr, /remedy: Add \w+ to securityContext\.capabilities\.add/);
      assert.deepEqual(layersOf(volume), [], 'nothing is there that is not as it should be');
    });

  test('has a case for every capability that it is given', () => {
    const { add = [], drop } = daemonSet.container.securityContext?.capabilities ?? {};
    assert.deepEqual(drop, ['ALL']);
    assert.deepEqual([...add].sort(), Object.keys(capabilityNeeds).sort());
  });
});
