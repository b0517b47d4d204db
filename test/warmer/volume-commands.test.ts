import assert from 'node:assert/strict';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { formatPlatform, hostPlatform, parseReference } from '../../src/oci/index.ts';
import { Volume } from '../../src/volume/index.ts';
import { type DaemonProcess, startDaemonProcess } from '../support/daemon-process.ts';
import { type DaemonGround, openDaemonGround } from '../support/daemon-ground.ts';
import { type Ended, kiln } from '../support/programs.ts';

const platform = formatPlatform(hostPlatform());

interface PruneAnswer {
  readonly dryRun: boolean;
  readonly items: readonly { readonly kind: string; readonly reference?: string; readonly bytes: number }[];
  readonly reclaimedBytes?: number;
  readonly reclaimableBytes?: number;
  readonly missingBytes: number;
  readonly skipped: Readonly<Record<'in_use' | 'pinned' | 'too_young', number>>;
}

describe('the commands of a volume, while a daemon keeps it', () => {
  let ground: DaemonGround;
  let daemon: DaemonProcess;
  let volume: string;
  /** References: the first is the daemon's, the others merely lie there. */
  let kept: string;
  let first: string;
  let second: string;
  before(async () => {
    ground = await openDaemonGround();
    volume = ground.path('volume');
    [kept, first, second] = (await Promise.all(
      ['kept:1', 'first:1', 'second:1'].map((name) => ground.push(name)),
    )) as [string, string, string];
    const config = ground.path('warmer.yaml');
    await writeFile(
      config,
      `images: ["${kept}"]\ndisk: {minFree: 1%, highWaterMark: 100%, lowWaterMark: 99%}\n`,
    );
    daemon = await startDaemonProcess(['--config', config, '--cache-dir', volume]);
    await daemon.line(({ type, outcome }) => type === 'pull' && outcome === 'pulled', 'the image');
    await warm();
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
    await ground[Symbol.asyncDispose]();
  });

  const warmer = (...args: readonly string[]): Promise<Ended> =>
    kiln('warmer', [...args, '--cache-dir', volume]);

  async function output(...args: readonly string[]): Promise<string> {
    const ended = await warmer(...args);
    assert.equal(ended.code, 0, `${args.join(' ')}: ${ended.stderr}`);
    assert.equal(ended.stderr, '', args.join(' '));
    return ended.stdout;
  }

  const json = async <Answer>(...args: readonly string[]): Promise<Answer> =>
    JSON.parse(await output(...args, '-o', 'json')) as Answer;

  async function warm(): Promise<void> {
    const ended = await warmer('once', '--image', first, '--image', second);
    assert.equal(ended.code, 0, ended.stderr);
  }

  const list = (): Promise<readonly { reference: string; pinned: boolean; digest: string }[]> => json('ls');
  const names = async (): Promise<string[]> => (await list()).map(({ reference }) => reference).sort();

  /** Everything on the volume that a command could change. */
  async function files(): Promise<string> {
    const directories = await Promise.all(
      ['blobs/sha256', 'layers'].map(async (name) => (await readdir(join(volume, name))).sort()),
    );
    return JSON.stringify([await readFile(join(volume, 'index.json'), 'utf8'), ...directories]);
  }

  test('list, weigh and show images for people and programs alike', async () => {
    const table = await output('ls');
    assert.match(table, /^IMAGE +PLATFORM +DIGEST +SIZE +UNPACKED +STATE +CHECKED +USED\n/);
    const images = await list();
    assert.deepEqual(images.map(({ reference }) => reference).sort(), [first, kept, second].sort());
    for (const { reference, digest } of images) {
      assert.equal(digest, ground.digest(reference));
      assert.match(table, new RegExp(`^${reference} +${platform} +.*${digest.slice(7, 19)}.* warm `, 'm'));
    }
    const usage = await json<
      Record<'blobs' | 'layers', { count: number; bytes: number }> & { images: number }
    >('du');
    assert.deepEqual([usage.images, usage.blobs.count, usage.layers.count], [3, 9, 3]);
    assert.match(await output('du'), /^images +3 /m);
    const [details, ...others] = await json<readonly { layers: readonly { digest: string }[] }[]>(
      'inspect',
      first,
    );
    assert.ok(details !== undefined && others.length === 0);
    const [layer] = details.layers;
    assert.ok(layer);
    const shown = await output('inspect', first);
    assert.match(shown, new RegExp(`^DIGEST +${ground.digest(first)}$`, 'm'));
    assert.ok(shown.includes(layer.digest));
  });

  test('pin what no prune takes then, and unpin it', async () => {
    assert.equal(await output('pin', first), `pinned ${first} (${platform})\n`);
    assert.match(await output('ls'), new RegExp(`^${first} .* warm, pinned `, 'm'));
    const plan = await json<PruneAnswer>('prune', '**/first', '--all', '--dry-run');
    assert.deepEqual([plan.items, plan.skipped.pinned], [[], 1]);
    assert.match(
      await output('prune', '**/first', '--all', '--force'),
      /^Left: 1 pinned\nTotal reclaimed space: 0 B\n$/,
    );
    assert.equal(await output('unpin', first), `unpinned ${first} (${platform})\n`);
    assert.deepEqual(
      (await list()).filter(({ pinned }) => pinned),
      [],
    );
  });

  test('prune what they said they would, and leave what is in use', async () => {
    const before = await files();
    const plan = await json<PruneAnswer>('prune', '**/second', '--all', '--dry-run');
    assert.deepEqual(
      plan.items.flatMap((item) => (item.kind === 'image' ? [item.reference] : [])),
      [second],
    );
    assert.match(
      await output('prune', '**/second', '--all', '-n'),
      new RegExp(`^${second} .*[^]*Total reclaimable space: `, 'm'),
    );
    assert.equal(await files(), before, 'a dry run changes nothing');
    {
      await using held = await Volume.open(volume, { access: 'read-only' });
      const image = await held.find(parseReference(second), hostPlatform());
      await using _lease = await held.acquireLayers(image?.layers ?? []);
      const refused = await json<PruneAnswer>('prune', '**/second', '--all', '--force');
      assert.deepEqual([refused.items, refused.reclaimedBytes, refused.skipped.in_use], [[], 0, 1]);
      assert.equal(await files(), before);
    }
    const done = await json<PruneAnswer>('prune', '**/second', '--all', '--force', '--grace-period', '0s');
    assert.equal(done.reclaimedBytes, plan.reclaimableBytes);
    assert.deepEqual(await names(), [first, kept].sort());
    await warm();
    assert.deepEqual(await names(), [first, kept, second].sort());
  });

  test('say when a bound cannot be kept with what may go', async () => {
    await output('pin', first, second, kept);
    const ended = await warmer('prune', '--max-size', '1kB', '--force', '-o', 'json');
    assert.equal(ended.code, 3);
    assert.ok((JSON.parse(ended.stdout) as PruneAnswer).missingBytes > 100_000);
    assert.match(ended.stderr, /more would have to go, but what is left may not/);
    await output('unpin', first, second, kept);
    assert.equal((await names()).length, 3);
  });

  test('make the index anew beside the daemon, which goes on', async () => {
    assert.equal(await output('reindex'), 'indexed 3 images\n');
    assert.equal((await names()).length, 3);
    const { message } = await daemon.line(({ message }) => message.startsWith('keeping'), 'the start');
    const [address = ''] = /127\.0\.0\.1:[0-9]+/.exec(message) ?? [];
    const status = (await (await fetch(`http://${address}/status`)).json()) as {
      images: unknown[];
      ready: boolean;
    };
    assert.deepEqual([status.ready, status.images.length], [true, 3]);
  });

  test('refuse what makes no sense with one clear error, and change nothing', async () => {
    const before = await files();
    const cases: readonly (readonly [readonly string[], number, RegExp])[] = [
      [['prune', '--force'], 2, /policy|condition|--all/],
      [['prune', '--all'], 2, /nobody can be asked[^]*--force[^]*--dry-run/],
      [['prune', '--max-size', 'much', '--force'], 2, /--max-size: "much" is not a size/],
      [['prune', '--unused-for', '-3d', '--force'], 2, /--unused-for: /],
      [['prune', '--high-water-mark', '50%', '--low-water-mark', '80%', '--force'], 2, /low.*high|80%.*50%/i],
      [['prune', '--max-size', '1GB', '--max-used-space', '1GB', '--force'], 2, /say the same/],
      [['prune', '--filter', 'size=3', '--force'], 2, /--filter size=3 is no condition/],
      [['prune', 'UPPER CASE', '--all', '--force'], 2, /UPPER CASE/],
      [['pin'], 2, /image/],
      [['pin', 'no such name'], 2, /no such name/],
      [['pin', first, 'docker.io/library/nowhere:1'], 2, /nowhere:1 is not on the volume/],
      [['pin', first, '--platform', 'linux/s390x'], 2, /first:1 for linux\/s390x is not on the volume/],
      [['inspect', 'docker.io/library/nowhere:1'], 2, /nowhere:1 is not on the volume/],
      [['inspect', first, '-o', 'yaml'], 2, /yaml/],
      [['ls', 'surplus'], 2, /argument/],
      [['reindex', '--quickly'], 2, /--quickly/],
    ];
    await Promise.all(
      cases.map(async ([args, code, says]) => {
        const ended = await warmer(...args);
        assert.equal(ended.code, code, `${args.join(' ')}: ${ended.stderr}`);
        assert.match(ended.stderr, says, args.join(' '));
        assert.equal(ended.stdout, '', args.join(' '));
        assert.ok(ended.stderr.trim().split('\n').length <= 3, ended.stderr);
      }),
    );
    assert.equal(await files(), before);
    const nowhere = ground.path('nowhere');
    await Promise.all(
      [['ls'], ['prune', '--all', '--force'], ['pin', first], ['reindex']].map(async (command) => {
        const ended = await kiln('warmer', [...command, '--cache-dir', nowhere]);
        assert.equal(ended.code, 3, ended.stderr);
        assert.match(ended.stderr, /E_VOLUME_NOT_FOUND/);
      }),
    );
    await assert.rejects(readdir(nowhere), 'a mistyped path becomes no volume');
  });
});
