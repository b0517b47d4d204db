import assert from 'node:assert/strict';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { debianTar } from '../support/debian.ts';
import { pushTestImage } from '../support/images.ts';
import {
  compareImages,
  parityArguments,
  type ParityBases,
  parityContexts,
  parityNames,
  pushLayered,
} from '../support/parity.ts';
import { kilnLayers, openPod, type Pod } from '../support/pod.ts';
import { type Ended, kiln } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

/*
 * All Dockerfiles of test/parity, built by overlay as root of this machine, and one after the other in place in one
 * container of an ordinary pod: so whatever a build left to the next one would show, too.
 */

describe('a build in place, in an ordinary pod, gives what an overlay gives', () => {
  let workshop: Workshop;
  let pod: Pod;
  let bases: ParityBases;
  before(async () => {
    workshop = await openWorkshop({ inMemory: true });
    const { directory, registry, base } = workshop;
    bases = {
      busybox: base,
      debian: `${registry.host}/debian:bookworm`,
      layered: await pushLayered(directory, `${registry.host}/layered:1`),
    };
    await pushTestImage(directory, bases.debian, { layers: [await debianTar()] });
    const contexts = await parityContexts(join(directory, 'contexts'));
    const images = Object.values(bases).flatMap((reference: string) => ['--image', reference]);
    const warmed = await kiln('warmer', ['--cache-dir', workshop.volume, ...images]);
    assert.equal(warmed.code, 0, warmed.stderr);
    for (const name of ['mounted', 'out', 'layers']) mkdirSync(join(directory, name));
    writeFileSync(join(directory, 'mounted/file'), 'mounted');
    pod = await openPod(await kilnLayers(join(directory, 'layers')), {
      mounts: [
        { source: contexts, target: '/kiln/contexts', readOnly: true },
        { source: join(directory, 'out'), target: '/kiln/out' },
        { source: workshop.volume, target: '/cache', readOnly: true },
        // Within what bases have, and in a directory that the layers of some take away.
        { source: join(directory, 'mounted'), target: '/usr/share/mounted', readOnly: true },
      ],
    });
    await pod.start();
  });
  after(async () => {
    await (pod as Pod | undefined)?.[Symbol.asyncDispose]();
    await workshop[Symbol.asyncDispose]();
  });

  const inPod = (name: string): Promise<Ended> =>
    pod.exec([
      ...['/kiln/bin/executor', '--isolation', 'inplace', '--context', `/kiln/contexts/${name}`],
      ...['--cache=false', '--no-push', '--oci-layout-path', `/kiln/out/${name}-inplace`],
      ...parityArguments(bases, name),
    ]);
  const onOverlay = (name: string): Promise<Ended> =>
    kiln('executor', [
      ...['--isolation', 'overlay', '--context', join(workshop.directory, 'contexts', name)],
      ...['--cache-dir', workshop.volume, '--cache=false', '--no-push'],
      ...['--oci-layout-path', join(workshop.directory, 'out', `${name}-overlay`)],
      ...parityArguments(bases, name),
    ]);

  for (const name of parityNames)
    test(name, async () => {
      const [inPlace, overlay] = await Promise.all([inPod(name), onOverlay(name)]);
      assert.equal(inPlace.code, 0, inPlace.stderr);
      assert.equal(overlay.code, 0, overlay.stderr);
      const out = join(workshop.directory, 'out');
      const images = [join(out, `${name}-inplace`), join(out, `${name}-overlay`)] as const;
      const [actual, expected] = await compareImages(workshop.directory, ...images);
      assert.deepEqual(actual, expected);
      for (const kind of ['inplace', 'overlay']) rmSync(join(out, `${name}-${kind}`), { recursive: true });
    });

  test('and leaves nothing in the container', async () => {
    const left = await filesBelow(pod.root, ['kiln', 'tmp']);
    // What runc made to mount the kubelet's files on.
    assert.deepEqual(left.sort(), ['etc/hostname', 'etc/hosts', 'etc/resolv.conf']);
    const work = await readdir(join(pod.root, 'kiln/work'), { recursive: true });
    assert.deepEqual(work.sort(), ['lock', 'taken', 'trash']);
  });
});

/** Whatever is no directory, apart from what lies in some. */
async function filesBelow(root: string, without: readonly string[]): Promise<string[]> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true });
  const paths = entries
    .filter((entry) => !entry.isDirectory())
    .map(({ parentPath, name }) => join(parentPath, name).slice(root.length + 1));
  return paths.filter((path) => !without.includes(path.split('/')[0] ?? ''));
}
