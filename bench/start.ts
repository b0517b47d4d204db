import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { kiln, median, openGround } from './support.ts';

/** With the base warm: from starting the executor to the first process of a RUN step, by the clock that both see. */
await using ground = await openGround();
const volume = join(ground.directory, 'volume');
await kiln('warmer', ['--cache-dir', volume, '--image', ground.base]);
const times: number[] = [];
for (let round = 0; round < 11; round++) {
  await writeFile(
    join(ground.directory, 'Dockerfile'),
    `FROM ${ground.base}\nENV ROUND=${round}\nRUN ["date", "+first:%s%N"]\n`,
  );
  const context = ['--context', ground.directory, '--cache-dir', volume, '--no-push'];
  const { output, startedAt } = await kiln('executor', context);
  const at = /first:([0-9]+)/.exec(output)?.[1];
  if (at === undefined) throw new Error(output);
  times.push(Number(BigInt(at) - startedAt) / 1e6);
}
console.log(
  `executor start to first RUN process: median ${median(times).toFixed(0)} ms of ${times.length} (goal 300)`,
);
