import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeTestLayout } from '../test/support/images.ts';
import { temporaryDirectory } from '../test/support/programs.ts';
import { startRegistry } from '../test/support/registry.ts';
import { type Cost, kiln, measure, median } from './support.ts';

/** A layer of 1 GB that does not compress, pulled and pushed over loopback, beside skopeo copy; alternating. */
const gigabyte = 1000 ** 3;
await using directory = await temporaryDirectory();
const at = (name: string): string => join(directory.path, name);

await mkdir(at('layer'));
await measure('dd', ['if=/dev/urandom', `of=${at('layer/random')}`, 'bs=1M', 'count=954']);
await measure('sh', ['-c', `tar -C ${at('layer')} -cf - . | gzip -1 > ${at('layer.tar.gz')}`]);
const layout = await writeTestLayout(at('layout'), 'image', { layers: [at('layer.tar.gz')] });
await using origin = await startRegistry();
const image = `${origin.host}/image:1`;
await measure('skopeo', [
  'copy',
  '--quiet',
  '--dest-tls-verify=false',
  `oci:${layout}:image`,
  `docker://${image}`,
]);
await kiln('warmer', ['--cache-dir', at('warm'), '--download-only', '--image', image]);
await mkdir(at('context'));
await writeFile(at('context/Dockerfile'), `FROM ${image}\n`);

/** Runs a command with a registry that has nothing, and room that is emptied afterwards. */
async function inNewPlace(run: (host: string, room: string) => Promise<Cost>): Promise<Cost> {
  await using registry = await startRegistry();
  const room = at('room');
  try {
    return await run(registry.host, room);
  } finally {
    await rm(room, { recursive: true, force: true });
  }
}

const contestants = {
  pull: {
    kiln: () =>
      inNewPlace((_host, room) => kiln('warmer', ['--cache-dir', room, '--download-only', '--image', image])),
    skopeo: () =>
      inNewPlace((_host, room) =>
        measure('skopeo', [
          'copy',
          '--quiet',
          '--src-tls-verify=false',
          `docker://${image}`,
          `oci:${room}:image`,
        ]),
      ),
  },
  push: {
    kiln: () =>
      inNewPlace((host) =>
        kiln('executor', [
          ...['--context', at('context'), '--cache-dir', at('warm'), '--cache=false'],
          ...['--destination', `${host}/image:1`],
        ]),
      ),
    skopeo: () =>
      inNewPlace((host) =>
        measure('skopeo', [
          ...[
            'copy',
            '--quiet',
            '--dest-tls-verify=false',
            `oci:${layout}:image`,
            `docker://${host}/image:1`,
          ],
        ]),
      ),
  },
};

for (const [what, { kiln: ours, skopeo: theirs }] of Object.entries(contestants)) {
  const a: Cost[] = [];
  const b: Cost[] = [];
  for (let round = 0; round < 5; round++) {
    a.push(await ours());
    b.push(await theirs());
  }
  const seconds = (costs: readonly Cost[]): number => median(costs.map((cost) => cost.seconds));
  const rate = (costs: readonly Cost[]): string => (gigabyte / seconds(costs) / 1e6).toFixed(0);
  const memory = Math.max(...a.map(({ peakMemory }) => peakMemory)) / 1024 ** 2;
  console.log(
    `${what} of 1 GB: kiln ${rate(a)} MB/s (peak ${memory.toFixed(0)} MiB), skopeo ${rate(b)} MB/s; ` +
      `throughput ${(seconds(b) / seconds(a)).toFixed(2)} of skopeo's (goal 0.8)`,
  );
}
