import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { pushTestImage } from '../support/images.ts';
import { basesOf, type Ended, kiln, stepsThat, warningsOf } from '../support/programs.ts';
import { mountReadOnly } from '../support/read-only.ts';
import { serveVolume, type VolumeWarming } from '../support/volume-warming.ts';
import { eventually } from '../support/warming.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

interface Node extends AsyncDisposable {
  readonly warming: VolumeWarming;
  /** The volume as the warmer has it, and as builds have it. */
  readonly volume: string;
  readonly mounted: string;
}

// Each has a volume and a base of its own, and much of the time waits.
describe('a build on a volume that it can only read', { concurrency: 3 }, () => {
  let workshop: Workshop;
  before(async () => {
    workshop = await openWorkshop();
  });
  after(() => workshop[Symbol.asyncDispose]());

  async function openNode(): Promise<Node> {
    const volume = join(workshop.directory, workshop.unique('volume'));
    await using cleanup = new AsyncDisposableStack();
    const { warming } = cleanup.use(await serveVolume(volume));
    const mounted = `${volume}-mounted`;
    cleanup.use(mountReadOnly(volume, mounted));
    const open = cleanup.move();
    return { warming, volume, mounted, [Symbol.asyncDispose]: () => open.disposeAsync() };
  }

  /** A base image of its own for a test. */
  async function newBase(text = 'x'): Promise<string> {
    const directory = join(workshop.directory, workshop.unique('base'));
    execFileSync('mkdir', ['-p', join(directory, 'root/etc')]);
    execFileSync('sh', ['-c', `echo ${text} > ${directory}/root/etc/text`]);
    execFileSync('tar', ['-C', join(directory, 'root'), '-czf', join(directory, 'top.tar.gz'), '.']);
    const image = `${workshop.registry.host}/${workshop.unique('base')}:1`;
    await push(image, join(directory, 'top.tar.gz'));
    return image;
  }

  async function push(image: string, top: string): Promise<void> {
    const layers = [join(workshop.directory, 'busybox.tar.gz'), top];
    await pushTestImage(join(workshop.directory, workshop.unique('push')), image, { layers });
  }

  const build = async (node: Pick<Node, 'mounted'>, base: string, ...args: string[]): Promise<Ended> => {
    const context = await workshop.context({ Dockerfile: `FROM ${base}\nRUN cat /etc/text > /copy\n` });
    const scratch = join(workshop.directory, 'scratch');
    const ended = await kiln('executor', [
      ...[
        '--context',
        context,
        '--cache-dir',
        node.mounted,
        '--scratch-dir',
        scratch,
        '--log-format',
        'json',
      ],
      ...(args.length === 0 ? ['--no-push'] : args),
    ]);
    assert.equal(ended.code, 0, ended.stderr);
    return ended;
  };

  const baseOf = (ended: Ended): { outcome: string; detail: string } => {
    const [base, ...others] = basesOf(ended);
    assert.ok(base !== undefined && others.length === 0);
    return base;
  };
  const blobsFetched = async (base: string): Promise<string[]> => {
    const repository = base.replace(/^[^/]*\//, '').replace(/:.*/, '');
    return (await workshop.registry.accessLog()).filter((line) =>
      line.startsWith(`GET /v2/${repository}/blobs/`),
    );
  };

  test('has the warmer bring a base that is missing, and mounts it from there', async () => {
    const base = await newBase();
    await using node = await openNode();
    await workshop.registry.clearLog();
    const first = await build(node, base);
    assert.equal(baseOf(first).outcome, 'ensured');
    assert.deepEqual(stepsThat('ran', first), ['RUN cat /etc/text > /copy']);
    const fetched = await blobsFetched(base);
    assert.equal(new Set(fetched).size, fetched.length, 'each blob once');
    assert.equal(fetched.length, 3);
    const second = await build(node, base);
    assert.equal(baseOf(second).outcome, 'warm');
    assert.deepEqual(await blobsFetched(base), fetched);
    await eventually(() => node.warming.reports.length === 2);
    assert.deepEqual(
      node.warming.reports.map(({ succeeded, bases, steps }) => [succeeded, bases[0]?.outcome, steps]),
      [
        [true, 'ensured', { cached: 0, ran: 1 }],
        [true, 'warm', { cached: 0, ran: 1 }],
      ],
    );
  });

  test('has the warmer bring what a tag has moved to', async () => {
    const base = await newBase('old');
    await using node = await openNode();
    await build(node, base);
    const moved = await newBase('new');
    execFileSync('skopeo', [
      ...['copy', '--quiet', '--src-tls-verify=false', '--dest-tls-verify=false'],
      ...[`docker://${moved}`, `docker://${base}`],
    ]);
    const image = `${workshop.registry.host}/${workshop.unique('moved')}:1`;
    const ended = await build(node, base, '--destination', image);
    assert.equal(baseOf(ended).outcome, 'ensured');
    assert.equal(baseOf(await build(node, base)).outcome, 'warm');
  });

  test('fetches for itself what the warmer may not bring, and says why', async () => {
    const base = await newBase();
    await using node = await openNode();
    node.warming.allows = () => false;
    const ended = await build(node, base);
    assert.equal(baseOf(ended).outcome, 'cold');
    assert.match(baseOf(ended).detail, /for this build alone.*does not allow it/);
    await eventually(() => node.warming.reports[0]?.bases[0]?.outcome === 'cold');
    const again = await build(node, base);
    assert.equal(baseOf(again).outcome, 'cold', 'nothing was left on the volume');
  });

  test('fetches for itself where there is no warmer, and where one was killed', async () => {
    const base = await newBase();
    const node = await openNode();
    await node[Symbol.asyncDispose]();
    using _mount = mountReadOnly(node.volume, node.mounted);
    const without = await build(node, base, '--no-push', '--wait-for-warmer', '600ms');
    assert.match(warningsOf(without).join(), /there is no socket/);
    assert.equal(baseOf(without).outcome, 'cold');
    assert.match(baseOf(without).detail, /no warmer serves this node: there is no socket/);
    const socket = createServer();
    await new Promise<void>((resolve) => socket.listen(join(node.volume, 'left.sock'), resolve));
    execFileSync('cp', ['-a', join(node.volume, 'left.sock'), join(node.volume, 'warmer.sock')]);
    await new Promise((resolve) => socket.close(resolve));
    const left = await build(node, base);
    assert.match(baseOf(left).detail, /nobody listens/);
    assert.deepEqual(warningsOf(left), []);
  });

  test('is not held up by a warmer that hangs', async () => {
    const base = await newBase();
    const node = await openNode();
    await node[Symbol.asyncDispose]();
    using _mount = mountReadOnly(node.volume, node.mounted);
    const hangs = createServer(() => undefined);
    await new Promise<void>((resolve) => hangs.listen(join(node.volume, 'warmer.sock'), resolve));
    try {
      const ended = await build(node, base);
      assert.equal(baseOf(ended).outcome, 'cold');
      assert.match(baseOf(ended).detail, /did not answer within 5 s/);
    } finally {
      hangs.close();
    }
  });

  test('is known to the warmer while it runs', async () => {
    const base = await newBase();
    await using node = await openNode();
    await build(node, base);
    const context = await workshop.context({ Dockerfile: `FROM ${base}\nRUN sleep 2\n` });
    const running = kiln('executor', [
      ...[
        '--context',
        context,
        '--cache-dir',
        node.mounted,
        '--no-push',
        '--destination',
        'registry.invalid/app:7',
      ],
      ...['--scratch-dir', join(workshop.directory, 'scratch')],
    ]);
    await eventually(() => node.warming.builds.size === 1);
    const [announced] = node.warming.builds.values();
    assert.equal(announced?.label, 'registry.invalid/app:7');
    assert.equal(announced.images[0]?.reference, base);
    assert.equal((await running).code, 0);
    await eventually(() => node.warming.builds.size === 0 && node.warming.leases === 0);
  });

  test('reports a failed build as failed, and the cache that it hit', async () => {
    const base = await newBase();
    await using node = await openNode();
    const cache = join(workshop.directory, workshop.unique('cache'));
    const flags = ['--no-push', '--cache', '--cache-repo', `oci:${cache}`];
    await build(node, base, ...flags);
    await build(node, base, ...flags);
    const context = await workshop.context({ Dockerfile: `FROM ${base}\nRUN false\n` });
    const failed = await kiln('executor', [
      '--context',
      context,
      '--cache-dir',
      node.mounted,
      '--no-push',
      '--scratch-dir',
      join(workshop.directory, 'scratch'),
    ]);
    assert.equal(failed.code, 1);
    await eventually(() => node.warming.reports.length === 3);
    assert.deepEqual(
      node.warming.reports.map(({ succeeded }) => succeeded),
      [true, true, false],
    );
    assert.deepEqual(node.warming.reports[0]?.cache, { location: `oci:${cache}`, hits: [] });
    assert.equal(node.warming.reports[1]?.steps.cached, 1);
    assert.match(node.warming.reports[1].cache?.hits.join(' ') ?? '', /^\S{40,}$/);
  });

  for (const warmer of ['with its warmer', 'without a warmer'])
    test(`succeeds ${warmer} while the registry is down, when base and cache are there`, async () => {
      const other = await openWorkshop();
      try {
        const volume = join(workshop.directory, workshop.unique('volume'));
        const cache = `oci:${join(workshop.directory, workshop.unique('cache'))}`;
        const warmed = await kiln('warmer', ['--cache-dir', volume, '--image', other.base]);
        assert.equal(warmed.code, 0, warmed.stderr);
        using mount = new DisposableStack();
        mount.use(mountReadOnly(volume, `${volume}-mounted`));
        await using node = warmer === 'with its warmer' ? await serveVolume(volume) : undefined;
        const context = await workshop.context({
          Dockerfile: `FROM ${other.base}\nRUN echo 1 > /one\nRUN echo 2 > /two\n`,
        });
        const flags = [
          '--cache-dir',
          `${volume}-mounted`,
          '--scratch-dir',
          join(workshop.directory, 'scratch'),
          '--no-push',
          '--cache',
          '--cache-repo',
          cache,
        ];
        assert.equal((await workshop.build(context, flags)).code, 0);
        await other.registry.stop();
        const ended = await workshop.build(context, flags);
        assert.equal(ended.code, 0, ended.stderr);
        assert.equal(stepsThat('cached', ended).length, 2);
        assert.equal(baseOf(ended).outcome, 'warm');
        const changed = await workshop.context({
          Dockerfile: `FROM ${other.base}\nRUN echo 1 > /one\nRUN echo changed > /two\n`,
        });
        const rebuilt = await workshop.build(changed, flags);
        assert.equal(rebuilt.code, 0, rebuilt.stderr);
        assert.deepEqual(stepsThat('ran', rebuilt), ['RUN echo changed > /two']);
        if (node !== undefined) await eventually(() => node.warming.reports.length === 3);
      } finally {
        await other[Symbol.asyncDispose]();
      }
    });

  test('waits for the warmer when it is asked to, and goes on when that takes too long', async () => {
    const base = await newBase();
    await using node = await openNode();
    node.warming.current = {
      ...node.warming.current,
      ready: false,
      checks: [{ name: 'images', ok: false, detail: '0 of 1 are warm' }],
    };
    const late = await build(node, base, '--no-push', '--wait-for-warmer', '1500ms');
    assert.match(
      warningsOf(late).join(),
      /was not ready after [1-9][0-9.]*s.*the build goes on: images: 0 of 1 are warm/,
    );
    const begun = performance.now();
    setTimeout(() => {
      node.warming.current = { ...node.warming.current, ready: true };
    }, 2000);
    const waited = await build(node, base, '--no-push', '--wait-for-warmer', '2m');
    assert.ok(performance.now() - begun >= 2000);
    assert.deepEqual(warningsOf(waited), []);
  });
});
