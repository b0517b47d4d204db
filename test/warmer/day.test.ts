import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { appendFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { formatPlatform, hostPlatform } from '../../src/oci/index.ts';
import { NodeClient } from '../../src/volume/index.ts';
import { findChromium, openBrowser, type TestBrowser, type TestPage } from '../support/browser.ts';
import { checkMetrics } from '../support/check-metrics.ts';
import { eventually } from '../support/daemon.ts';
import { ConfigMapMount, type DaemonProcess, startDaemonProcess } from '../support/daemon-process.ts';
import { type DaemonGround, openDaemonGround } from '../support/daemon-ground.ts';
import { type Gateway, openGateway } from '../support/gateway.ts';
import { kiln } from '../support/programs.ts';
import { freePort } from '../support/registry.ts';

const platform = formatPlatform(hostPlatform());
const missing = process.getuid?.() === 0 ? findChromium() === undefined : 'only root can mount a small disk';
const skip = missing === true ? process.env.CI === undefined && 'there is no Chromium' : missing;

/** How a node is to look from all sides. */
interface View {
  /** What `/readyz` answers; 0 for nothing. */
  readonly ready: number;
  /** Samples of `/metrics`, without `kiln_`. */
  readonly metrics: Readonly<Record<string, number | ((value: number) => boolean)>>;
  /** Rows of the status page's images, by name. */
  readonly rows: Readonly<Record<string, RegExp>>;
  /** What the status page wants a person to look at. */
  readonly attention: RegExp | undefined;
  /** The images that `warmer ls` finds, with their digests. */
  readonly stored: Readonly<Record<string, string>>;
}

interface Listed {
  readonly reference: string;
  readonly digest: string;
  readonly unpacked: boolean;
  readonly complete: boolean;
  readonly pinned: boolean;
}

/** A node with a volume of its own size, a daemon that may be restarted, and somebody who never closes its page. */
class Node implements AsyncDisposable {
  readonly volume: string;
  readonly configuration: ConfigMapMount;
  readonly gateway: Gateway;
  readonly watcher: TestPage;
  readonly #port: number;
  readonly #cleanup: AsyncDisposableStack;
  #daemon: DaemonProcess;

  private constructor(
    parts: Pick<Node, 'volume' | 'configuration' | 'gateway' | 'watcher'>,
    port: number,
    daemon: DaemonProcess,
    cleanup: AsyncDisposableStack,
  ) {
    this.volume = parts.volume;
    this.configuration = parts.configuration;
    this.gateway = parts.gateway;
    this.watcher = parts.watcher;
    this.#port = port;
    this.#daemon = daemon;
    this.#cleanup = cleanup;
  }

  static async open(
    ground: DaemonGround,
    browser: TestBrowser,
    gateway: Gateway,
    yaml: string,
  ): Promise<Node> {
    await using cleanup = new AsyncDisposableStack();
    const volume = ground.path('disk');
    mkdirSync(volume);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', volume]);
    cleanup.defer(() => void execFileSync('umount', ['--lazy', volume]));
    const configuration = new ConfigMapMount(ground.path('etc'));
    await configuration.update({ 'warmer.yaml': yaml });
    const port = await freePort();
    const daemon = cleanup.use(await startOn(volume, configuration, port));
    await daemon.line(({ message }) => message.startsWith('keeping'), 'the start');
    const watcher = cleanup.use(await browser.open(`http://127.0.0.1:${port}/`, { clock: true }));
    return new Node({ volume, configuration, gateway, watcher }, port, daemon, cleanup.move());
  }

  kill(): Promise<unknown> {
    return this.#daemon.end('SIGKILL');
  }

  async restart(): Promise<void> {
    this.#daemon = this.#cleanup.use(await startOn(this.volume, this.configuration, this.#port));
  }

  async list(): Promise<readonly Listed[]> {
    const ended = await kiln('warmer', ['ls', '--cache-dir', this.volume, '-o', 'json']);
    assert.equal(ended.code, 0, ended.stderr);
    return JSON.parse(ended.stdout) as Listed[];
  }

  /** Waits until the node looks so from every side. */
  async looks(when: string, wanted: View): Promise<void> {
    let wrong: string[] = [];
    try {
      await eventually(async () => {
        wrong = [...(await this.#overHttp(wanted)), ...(await this.#onPage(wanted))];
        // A process is not started before there is hope.
        if (wrong.length === 0) wrong = await this.#onVolume(wanted);
        return wrong.length === 0 ? true : undefined;
      }, 'it');
    } catch (error) {
      throw new Error(
        `${when}: ${wrong.join('\n')}\n${this.#daemon.lines.map(({ message }) => message).join('\n')}`,
        {
          cause: error,
        },
      );
    }
  }

  async #overHttp({ ready, metrics }: View): Promise<string[]> {
    const get = (path: string): Promise<Response | undefined> =>
      fetch(`http://127.0.0.1:${this.#port}${path}`).catch(() => undefined);
    const answered = (await get('/readyz'))?.status ?? 0;
    const found = answered === ready ? [] : [`/readyz answers ${answered}`];
    if (answered === 0) return found;
    const families = checkMetrics((await (await get('/metrics'))?.text()) ?? '');
    for (const [sample, expected] of Object.entries(metrics)) {
      const name = `kiln_${sample}`;
      const value = families.get(name.replace(/\{.*/, ''))?.samples.get(name) ?? NaN;
      if (typeof expected === 'function' ? !expected(value) : value !== expected)
        found.push(`${name} is ${value}`);
    }
    return found;
  }

  async #onPage({ rows, attention }: View): Promise<string[]> {
    await this.watcher.pass(2500);
    const text = `(selector) => document.querySelector(selector)?.innerText.replace(/\\s+/g, ' ') ?? ''`;
    const shown = await this.watcher.run<string>(`(${text})('.attention')`);
    const found = (attention ?? /^$/).test(shown) ? [] : [`the page wants attention for “${shown}”`];
    for (const [name, expected] of Object.entries(rows)) {
      const key = JSON.stringify(`tr[data-key="${this.gateway.host}/${name} ${platform}"]`);
      const row = await this.watcher.run<string>(`(${text})(${key})`);
      if (!expected.test(row)) found.push(`the page says of ${name}: “${row}”`);
    }
    return found;
  }

  async #onVolume({ stored }: View): Promise<string[]> {
    const images = await this.list();
    const found = images.filter(({ unpacked, complete }) => !unpacked || !complete);
    const listed = Object.fromEntries(
      images.map(({ reference, digest }) => [reference.slice(reference.indexOf('/') + 1), digest]),
    );
    const [actual, expected] = [listed, stored].map((names) => JSON.stringify(Object.entries(names).sort()));
    return [
      ...found.map(({ reference }) => `${reference} is not whole`),
      ...(actual === expected ? [] : [`the volume has ${actual ?? ''} and not ${expected ?? ''}`]),
    ];
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#cleanup.disposeAsync();
  }
}

function startOn(volume: string, { directory }: ConfigMapMount, port: number): Promise<DaemonProcess> {
  return startDaemonProcess([
    ...['--config', join(directory, 'warmer.yaml'), '--cache-dir', volume],
    ...['--listen', `127.0.0.1:${port}`],
  ]);
}

describe('a day of a node', { skip }, () => {
  test('is told the same by its metrics, its status page, its readiness and its volume', async (t) => {
    await using ground = await openDaemonGround();
    await using gateway = await openGateway(ground.registry.host);
    await using browser = await openBrowser();
    for (const name of ['base:1', 'tools:1', 'old:1', 'missed:1', 'late:1']) await ground.push(name);
    const digest = (name: string): string => ground.digest(`${ground.registry.host}/${name}`);
    const stored: Record<string, string> = {};
    const configure = (...images: readonly string[]): string =>
      [
        'refresh: 2s',
        'onDemand: {allow: ["**"]}',
        'adoption: {misses: 1}',
        'disk: {minFree: 5%, highWaterMark: 80%, lowWaterMark: 70%}',
        'images:',
        ...images.map((image) => `  - ${image.replace(/^(\{reference: )?/, `$1${gateway.host}/`)}`),
        '',
      ].join('\n');
    const base = 'base:1';
    const pinned = '{reference: tools:1, pin: true}';

    const layer = ground.layer(`${ground.registry.host}/${base}`);
    gateway.treat = (request) => (request.includes(layer) ? 'hold' : 'pass');
    await using node = await Node.open(ground, browser, gateway, configure(base));
    await node.watcher.run('window.same = true');
    const update = (yaml: string): Promise<void> => node.configuration.update({ 'warmer.yaml': yaml });

    await t.test('while its first image is on the way', () =>
      node.looks('at first', {
        ready: 503,
        metrics: { ready: 0, 'warm_images{state="pulling"}': 1, 'warm_images{state="warm"}': 0 },
        rows: { [base]: /configured Pulling/ },
        attention: /Check “images” fails: 0 of 1 configured images are warm/,
        stored,
      }),
    );

    const pulled = (count: number): Record<string, number> => ({
      [`warm_pulls_total{registry="${gateway.host}",result="pulled"}`]: count,
    });
    await t.test('when that has come', async () => {
      gateway.treat = () => 'pass';
      gateway.release();
      stored[base] = digest(base);
      await node.looks('warm', {
        ready: 200,
        metrics: { ready: 1, 'warm_images{state="warm"}': 1, ...pulled(1) },
        rows: { [base]: /configured Warm \d/ },
        attention: undefined,
        stored,
      });
    });

    await t.test('when its ConfigMap changes', async () => {
      await update(configure(base, pinned, 'old:1'));
      for (const name of ['tools:1', 'old:1']) stored[name] = digest(name);
      await node.looks('a new configuration', {
        ready: 200,
        metrics: {
          config_last_reload_successful: 1,
          'config_reloads_total{result="accepted"}': 1,
          'warm_images{state="warm"}': 3,
          ...pulled(3),
        },
        rows: { 'tools:1': /configured · pinned Warm/, 'old:1': /configured Warm/ },
        attention: undefined,
        stored,
      });
      const pins = (await node.list()).filter((image) => image.pinned);
      assert.deepEqual(
        pins.map(({ reference }) => reference),
        [`${gateway.host}/tools:1`],
      );
    });

    await t.test('when the next version of the ConfigMap is wrong, and when that is mended', async () => {
      await update(configure(base).replace('images:', 'imagse:'));
      const rows = { [base]: /Warm/, 'tools:1': /pinned Warm/ };
      await node.looks('a bad configuration', {
        ready: 200,
        metrics: { config_last_reload_successful: 0, 'config_reloads_total{result="rejected"}': 1 },
        rows,
        attention:
          /rejected just now: .*imagse: there is no such field\. Did you mean images\?.*stays in force/,
        stored,
      });
      await update(configure(base, pinned, 'old:1'));
      const metrics = { config_last_reload_successful: 1 };
      await node.looks('mended', { ready: 200, metrics, rows, attention: undefined, stored });
    });

    await t.test('while a build runs, and when it has missed a base', async () => {
      const client = new NodeClient(node.volume);
      const images = [{ reference: `${gateway.host}/${base}`, platform }];
      using build = client.announce({ build: 'b1', label: 'team/app', images });
      await node.looks('a build', {
        ready: 200,
        metrics: { builds_active: 1 },
        rows: { [base]: /in use by team\/app/ },
        attention: undefined,
        stored,
      });
      await client.report({
        ...{ build: 'b1', succeeded: true, seconds: 3, steps: { cached: 1, ran: 2 } },
        bases: [
          { reference: `${gateway.host}/${base}`, platform, outcome: 'warm' },
          { reference: `${gateway.host}/missed:1`, platform, outcome: 'cold' },
        ],
      });
      build[Symbol.dispose]();
      stored['missed:1'] = digest('missed:1');
      await node.looks('adoption', {
        ready: 200,
        metrics: {
          builds_active: 0,
          'warm_images_changed_total{change="adopted"}': 1,
          'cache_requests_total{store="base",result="hit"}': 1,
          'cache_requests_total{store="base",result="miss"}': 1,
          ...pulled(4),
        },
        rows: { 'missed:1': /adopted: builds missed it Warm/, [base]: /configured Warm/ },
        attention: undefined,
        stored,
      });
      const rate = node.watcher.page.getByRole('img', { name: /^Hit rate .*: 50\s% of 2 base images/ });
      assert.equal(await rate.count(), 1);
    });

    await t.test('when a tag moves', async () => {
      const before = stored[base];
      await ground.push(base);
      stored[base] = digest(base);
      assert.notEqual(stored[base], before);
      await node.looks('a moved tag', {
        ready: 200,
        metrics: { 'warm_images{state="warm"}': 4, ...pulled(5) },
        rows: { [base]: /configured Warm/ },
        attention: undefined,
        stored,
      });
      const pulls = node.watcher.page
        .locator('.pulls tbody tr', { hasText: base })
        .filter({ hasText: 'Pulled' });
      await eventually(async () => {
        await node.watcher.pass(2500);
        return (await pulls.count()) === 2 ? true : undefined;
      }, 'the second pull on the page');
    });

    await t.test('when the registry breaks, and when it is back', async () => {
      await ground.registry.stop();
      const failed = `warm_pulls_total{registry="${gateway.host}",result="failed"}`;
      await node.looks('a broken registry', {
        ready: 200,
        metrics: { ready: 1, 'warm_images{state="warm"}': 4, [failed]: (value) => value > 0 },
        rows: { [base]: /Warm, not refreshed .* cannot be reached/, 'tools:1': /Warm/ },
        attention: /images? cannot be refreshed; builds go on with what is there.*cannot be reached.*Check/,
        stored,
      });
      await ground.registry.restart();
      await node.looks('the registry is back', {
        ready: 200,
        metrics: { 'warm_images{state="warm"}': 4 },
        rows: { [base]: /configured Warm \d/ },
        attention: undefined,
        stored,
      });
    });

    await t.test('when its disk is full, and when there is room again', async () => {
      await fill(join(node.volume, 'filler'));
      await update(configure(base, pinned, 'late:1'));
      delete stored['old:1'];
      const skipped = `warm_pulls_total{registry="${gateway.host}",result="skipped_disk"}`;
      await node.looks('a full disk', {
        ready: 200,
        metrics: {
          [skipped]: (value) => value > 0,
          'warm_images{state="failed"}': 1,
          'warm_images{state="warm"}': 3,
          volume_free_bytes: (value) => value < 3.2e6,
          gc_reclaimed_bytes_total: (value) => value > 0,
        },
        rows: {
          'late:1': /Failed the image needs about .* are free and disk\.minFree keeps/,
          [base]: /configured Warm/,
          'old:1': /^$/,
        },
        attention: /1 image is missing and cannot be brought: .*late:1.*The disk is fuller than it may be/,
        stored,
      });
      await rm(join(node.volume, 'filler'));
      // An image that is named anew is tried at once, however long ago it failed.
      await update(configure(base, pinned));
      await update(configure(base, pinned, 'late:1'));
      stored['late:1'] = digest('late:1');
      await node.looks('room again', {
        ready: 200,
        metrics: { 'warm_images{state="failed"}': 0, 'warm_images{state="warm"}': 4 },
        rows: { 'late:1': /configured Warm/ },
        // Refreshes that failed for want of space are tried again in a while.
        attention: withoutMissing,
        stored,
      });
    });

    await t.test('when its daemon is killed, and when that runs again', async () => {
      await node.kill();
      const rows = { [base]: /configured Warm/, 'missed:1': /adopted: builds missed it Warm/ };
      await node.looks('killed', { ready: 0, metrics: {}, rows, attention: withoutMissing, stored });
      await eventually(async () => {
        await node.watcher.pass(2500);
        const trouble = await node.watcher.page.locator('#trouble').innerText();
        return /does not answer/.test(trouble) ? true : undefined;
      }, 'the page to say so');
      await node.restart();
      await node.looks('restarted', {
        ready: 200,
        metrics: { 'warm_images{state="warm"}': 4, ...pulled(0) },
        rows,
        attention: undefined,
        stored,
      });
      assert.equal(await node.watcher.page.locator('#trouble').innerText(), '');
      assert.equal(await node.watcher.run<boolean>('window.same'), true, 'the page was never loaded again');
    });
  });
});

/** Whatever else there may be to look at, every image is there. */
const withoutMissing = /^(?!.*missing)/;

/** Writes a file until there is no room for more. */
async function fill(path: string): Promise<void> {
  const chunk = Buffer.alloc(64 * 1024);
  for (;;)
    try {
      await appendFile(path, chunk);
    } catch (error) {
      assert.equal((error as NodeJS.ErrnoException).code, 'ENOSPC');
      return;
    }
}
