import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { awkwardLayers } from '../support/awkward-image.ts';
import { deployed, podOptions } from '../support/deployed.ts';
import { pushTestImage } from '../support/images.ts';
import { kilnLayers, openPod } from '../support/pod.ts';
import { type Ended, stepsThat } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

const daemonSet = deployed('warmer-hostpath.yaml');
const jobs = readdirSync(join(import.meta.dirname, '../../deploy')).filter((name) =>
  /^build-job.*\.yaml$/.test(name),
);

describe("on a volume that the warmer filled with its DaemonSet's rights, the Job of", () => {
  let workshop: Workshop;
  let kiln: readonly string[];
  let image = '';
  before(async () => {
    workshop = await openWorkshop();
    // The root of a user namespace is nobody here.
    await chmod(workshop.directory, 0o755);
    kiln = await kilnLayers(join(workshop.directory, 'kiln'));
    image = `${workshop.registry.host}/awkward:1`;
    const layers = awkwardLayers(join(workshop.directory, 'awkward')).map(({ file }) => file);
    const busybox = join(workshop.directory, 'busybox.tar.gz');
    await pushTestImage(workshop.directory, image, { layers: [busybox, ...layers] });
    const empty = join(workshop.directory, 'empty');
    for (const directory of [empty, workshop.volume]) await mkdir(directory);
    const volumes = { cache: workshop.volume, config: empty, credentials: empty };
    await using pod = await openPod(kiln, podOptions(daemonSet, volumes));
    const warmed = await pod.run(['/kiln/bin/warmer', 'once', '--cache-dir=/cache', `--image=${image}`]);
    assert.equal(warmed.code, 0, warmed.stderr);
  });
  after(() => workshop[Symbol.asyncDispose]());

  /** A build in the container of a Job, with its rights, mounts and arguments. */
  async function build(file: string): Promise<Ended> {
    const job = deployed(file);
    const directory = (name: string): string => join(workshop.directory, workshop.unique(name));
    const volumes = {
      cache: workshop.volume,
      context: directory('context'),
      credentials: directory('credentials'),
      scratch: directory('scratch'),
    };
    for (const name of ['context', 'credentials', 'scratch'] as const) await mkdir(volumes[name]);
    const lines = [
      `FROM ${image}`,
      'RUN test ! -e /etc/gone && test -e /opt/old/new && test ! -e /opt/old/file',
      'RUN test "$(stat -c %a:%g /var/local /usr/bin/wall)" = "$(printf "2775:50\\n2755:5")"',
      'RUN test "$(stat -c %u /home/user/file)" = 1000',
    ];
    await writeFile(join(volumes.context, 'Dockerfile'), lines.join('\n'));
    const destination = `${workshop.registry.host}/${workshop.unique('built')}:1`;
    const args = (job.container.args ?? []).map((word) =>
      word
        .replace(/^--destination=.*/, `--destination=${destination}`)
        // There is no daemon here.
        .replace(/^--wait-for-warmer=.*/, '--wait-for-warmer=1s'),
    );
    await workshop.registry.clearLog();
    await using pod = await openPod(kiln, podOptions(job, volumes));
    return await pod.run(['/kiln/bin/executor', ...args]);
  }

  for (const file of jobs)
    test(`${file} builds and pushes`, async () => {
      const result = await build(file);
      assert.equal(result.code, 0, result.stderr);
      assert.equal(stepsThat('ran', result).length, 3, 'the base is seen as it was packed');
      const fetched = (await workshop.registry.accessLog()).filter((line) =>
        /^GET \/v2\/awkward\/blobs/.test(line),
      );
      assert.deepEqual(fetched, [], 'nothing of a warm base is fetched again');
    });
});
