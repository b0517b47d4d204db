import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pushTestImage } from '../test/support/images.ts';
import { kiln, measure, openGround } from './support.ts';

/** Peak resident memory of the executor while a RUN writes 1 GB, and of the warmer while it warms a 700 MB image. */
const mebibyte = 1024 ** 2;
await using ground = await openGround();
const volume = join(ground.directory, 'volume');
await kiln('warmer', ['--cache-dir', volume, '--image', ground.base]);

for (const [what, source] of [
  ['zeros', '/dev/zero'],
  ['random bytes', '/dev/urandom'],
] as const) {
  await writeFile(
    join(ground.directory, 'Dockerfile'),
    `FROM ${ground.base}\nRUN dd if=${source} of=/big bs=1M count=1000\n`,
  );
  const { peakMemory, seconds } = await kiln('executor', [
    ...[
      '--context',
      ground.directory,
      '--cache-dir',
      volume,
      '--destination',
      `${ground.registry.host}/big:1`,
    ],
  ]);
  console.log(
    `a RUN that writes 1 GB of ${what}: ${(peakMemory / mebibyte).toFixed(0)} MiB, ${seconds.toFixed(1)} s (goal 250)`,
  );
}

const layers: string[] = [];
for (let number = 0; number < 7; number++) {
  const directory = join(ground.directory, `layer${number}`);
  await measure('mkdir', ['-p', join(directory, 'root/data')]);
  await measure('dd', ['if=/dev/urandom', `of=${directory}/root/data/file${number}`, 'bs=1M', 'count=100']);
  await measure('tar', ['-C', join(directory, 'root'), '-czf', join(directory, 'layer.tar.gz'), '.']);
  layers.push(join(directory, 'layer.tar.gz'));
}
const image = `${ground.registry.host}/seven-hundred:1`;
await pushTestImage(ground.directory, image, { layers });
const warmed = await kiln('warmer', ['--cache-dir', join(ground.directory, 'second'), '--image', image]);
console.log(
  `warming 700 MB in seven layers: ${(warmed.peakMemory / mebibyte).toFixed(0)} MiB, ${warmed.seconds.toFixed(1)} s (goal 200)`,
);
