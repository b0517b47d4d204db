/**
 * Another process on a volume: `child.ts pull DIRECTORY SEEDS PAUSE`, `child.ts hold DIRECTORY`,
 * `child.ts find DIRECTORY`. Prints one line of JSON when it has done its work.
 */
import { Volume } from '../../src/volume/index.ts';
import { FakeRegistry, amd64, debian, testImage } from './fixtures.ts';

const [command = '', directory = '', seeds = '', pause = '0', bytes = '300000'] = process.argv.slice(2);

if (command === 'pull') {
  await using volume = await Volume.open(directory, { access: 'read-write' });
  const registry = new FakeRegistry();
  registry.push(debian, await testImage(seeds.split(','), Number(bytes)));
  registry.pause = Number(pause);
  const { outcome, bytes: fetched } = await volume.pull(registry.client, debian, amd64);
  console.log(JSON.stringify({ outcome, fetched }));
} else {
  await using volume = await Volume.open(directory, { access: 'read-only' });
  const image = await volume.find(debian, amd64);
  await using lease = await volume.acquireLayers(image?.layers ?? []);
  const summaries = await volume.images();
  console.log(
    JSON.stringify({ digest: image?.descriptor.digest, paths: lease?.paths, count: summaries.length }),
  );
  if (command === 'hold') await new Promise((resolve) => setTimeout(resolve, 60_000));
}
