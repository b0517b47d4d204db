import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Progress } from '../../src/support/index.ts';
import { systemClock as clock } from '../../warmer/daemon/clock.ts';
import { FileWatch } from '../../warmer/daemon/watch.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { eventually } from '../support/warming.ts';

test('a file that changes before the watch of it has begun is noticed all the same', async () => {
  await using directory = await temporaryDirectory();
  const path = join(directory.path, 'warmer.yaml');
  writeFileSync(path, 'as it was read');
  let looks = 0;
  await using watch = new FileWatch({ clock, progress: new Progress(), onChange: () => (looks += 1) });
  watch.follow([path]);
  writeFileSync(path, 'as it is by now');
  await eventually(() => looks > 0);
});
