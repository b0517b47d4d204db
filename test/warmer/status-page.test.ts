import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import type { HitRateSample, WarmingStatus } from '../../warmer/daemon/types.ts';
import { findChromium, openBrowser, type TestBrowser, type TestPage } from '../support/browser.ts';
import { busyStatus } from '../support/busy-status.ts';
import { eventually, fakeImage, fakeStatus } from '../support/warming.ts';
import { openWebServer, type TestWeb } from '../support/web.ts';

const skip = findChromium() === undefined && process.env.CI === undefined ? 'there is no Chromium' : false;
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

const now = Date.now();
const error = { code: 'E_REGISTRY_UNAVAILABLE', message: 'the registry is down', at: new Date(now - 60_000) };

/** A node on which everything is wrong that can be. */
function troubled(): WarmingStatus {
  return busyStatus(12, {
    ready: false,
    checks: [
      { name: 'volume', ok: false, detail: "EROFS: read-only file system, access '/cache'" },
      { name: 'images', ok: false, detail: '3 of 5 configured images are warm' },
    ],
    disk: { used: 70e9, free: 8e9, total: 100e9, high: 80e9, low: 75e9 },
    images: [
      ...busyStatus(12).images,
      fakeImage('registry.example/waits:1', { phase: 'pending', digest: undefined }),
      fakeImage('registry.example/asked:1', { phase: 'checking' }),
      fakeImage('registry.example/gone:1', {
        ...{ phase: 'failed', digest: undefined, size: undefined, failures: 3 },
        lastError: { ...error, remedy: 'Check its name, the network and the proxy.' },
      }),
    ],
    configuration: {
      ...fakeStatus().configuration,
      rejected: { at: new Date(now), message: 'warmer.yaml:2: imagse: there is no such field.' },
    },
  });
}

describe('the status page in a browser', { skip }, () => {
  let browser: TestBrowser;
  before(async () => {
    browser = await openBrowser();
  });
  after(() => browser[Symbol.asyncDispose]());

  type Options = Parameters<TestBrowser['open']>[1] & { readonly path?: string };

  /** The page of a node that is so. */
  async function open(
    status: WarmingStatus,
    { path = '/', ...options }: Options = {},
  ): Promise<TestPage & { readonly web: TestWeb }> {
    await using cleanup = new AsyncDisposableStack();
    const web = cleanup.use(await openWebServer());
    web.warming.current = status;
    const opened = cleanup.use(await browser.open(`http://127.0.0.1:${web.port}${path}`, options));
    const all = cleanup.move();
    return { ...opened, web, [Symbol.asyncDispose]: () => all.disposeAsync() };
  }

  for (const [what, status, colorScheme, width] of [
    ['that has nothing to do', () => fakeStatus(), 'light', 360],
    ['that has nothing to do', () => fakeStatus(), 'dark', 1280],
    ['in every state there is', troubled, 'light', 1280],
    ['in every state there is', troubled, 'dark', 360],
  ] as const)
    test(`breaks no rule of accessibility for a node ${what}, in ${colorScheme}, ${width} pixels wide`, async () => {
      await using opened = await open(status(), { colorScheme, viewport: { width, height: 800 } });
      const { violations, passed } = await audit(opened);
      assert.deepEqual(violations, []);
      assert.ok(passed.includes('color-contrast'), 'contrast was measured');
    });

  test('needs no scrolling aside on a phone, however long the names are', async () => {
    const long = 'x'.repeat(600);
    const status = { ...troubled(), version: long };
    const [first] = status.images;
    assert.ok(first);
    const images = [
      fakeImage(`registry.example/${long}:${long}`, {
        ...{ phase: 'failed', failures: 2, usedBy: [long] },
        lastError: { ...error, message: long, remedy: long },
      }),
      fakeImage(`${long}.example/a@sha256:${'0'.repeat(64)}`, { transfer: { bytes: 1, total: 2 } }),
      ...status.images,
    ];
    const builds = [
      {
        build: long,
        label: long,
        images: [{ reference: long, platform: long }],
        since: new Date(),
      },
    ];
    await using opened = await open({
      ...{ ...status, images, builds },
      checks: [{ name: long, ok: false, detail: long }],
      pulls: status.pulls.map((pull) => ({ ...pull, error: long, reference: long })),
      configuration: {
        ...{ ...status.configuration, path: long },
        rejected: { at: new Date(), message: long },
      },
    });
    for (const width of [320, 360, 600, 768, 961, 1280]) {
      await opened.page.setViewportSize({ width, height: 700 });
      const wide = await opened.run<number>('document.documentElement.scrollWidth');
      assert.equal(wide, width, `at ${width} pixels`);
    }
  });

  test('is usable by keyboard alone, and shows where one is', async () => {
    await using opened = await open(busyStatus(120));
    const { page, run } = opened;
    await run(`for (const details of document.querySelectorAll('details')) details.open = true`);
    const interactive = await run<string[]>(
      `[...document.querySelectorAll('a, button, input:not([type=hidden]), select, summary, [tabindex="0"]')]
        .filter((element) => element.checkVisibility({ visibilityProperty: true })).map(${nameOf})`,
    );
    assert.equal(interactive[0], 'a Skip to the images');
    const reached: string[] = [];
    for (;;) {
      await page.keyboard.press('Tab');
      const stop = await run<{ name: string; outline: string; width: number; visible: boolean } | null>(
        `(() => {
          const element = document.activeElement;
          if (element === document.body) return null;
          const { outlineStyle, outlineWidth } = getComputedStyle(element);
          const { top, bottom, width } = element.getBoundingClientRect();
          return { name: (${nameOf})(element), outline: outlineStyle, width: parseFloat(outlineWidth),
            visible: width > 10 && bottom > 0 && top < innerHeight };
        })()`,
      );
      if (stop === null || reached.length > interactive.length) break;
      reached.push(stop.name);
      assert.equal(stop.outline, 'solid', stop.name);
      assert.ok(stop.width >= 2, stop.name);
      assert.ok(stop.visible, `${stop.name} is in sight`);
    }
    assert.deepEqual(reached, interactive);
    assert.ok(reached.includes('div Hit rate over time'), 'what scrolls can be scrolled by keyboard');

    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    await page.keyboard.press('Tab');
    assert.match(await run<string>(`(${nameOf})(document.activeElement)`), /^a All/, 'skipped to the images');
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    await page.waitForURL(/state=warm/);
    await page.locator('[aria-current]', { hasText: 'Warm' }).waitFor();
    assert.match(await run<string>(`(${nameOf})(document.activeElement)`), /^a Warm/, 'the focus stays');
  });

  test('finds and sorts images without a reload, and the back button returns', async () => {
    await using opened = await open(busyStatus(60));
    const { page, run } = opened;
    await run('window.same = true');
    await page.getByRole('searchbox').pressSequentially('keycloak');
    await page.locator('#found', { hasText: '5 of 60 images' }).waitFor();
    assert.equal(await page.getByRole('searchbox').inputValue(), 'keycloak');
    assert.equal(await run<string>('document.activeElement.name'), 'q', 'typing goes on');
    await page.getByRole('link', { name: 'Size' }).click();
    await page
      .getByRole('columnheader', { name: 'Size' })
      .and(page.locator('[aria-sort=ascending]'))
      .waitFor();
    await page.goBack();
    await page.locator('.state[aria-sort]').waitFor();
    assert.equal(await run<boolean>('window.same'), true);
  });

  test('leaves open, focused and typed in what it takes news over', async () => {
    await using opened = await open(busyStatus(12, { images: [fakeImage('docker.io/library/debian:12')] }), {
      clock: true,
    });
    const { page, run, web, pass } = opened;
    await run('window.same = true');
    await page.getByText('As a table').click();
    await page.getByRole('searchbox').fill('deb');
    await page.locator('#found', { hasText: '1 image' }).waitFor({ state: 'attached' });
    for (const status of [troubled(), fakeStatus({ hitRate: busyStatus(3).hitRate }), troubled()]) {
      web.warming.current = {
        ...status,
        images: [...status.images, fakeImage('docker.io/library/debian:13')],
      };
      await eventually(async () => {
        await pass(10_000);
        return (await page.locator('.attention').isVisible()) !== status.ready;
      });
      assert.equal(await run<string>('document.activeElement.name'), 'q');
      assert.equal(await page.getByRole('searchbox').inputValue(), 'deb');
      assert.equal(await run<boolean>(`document.querySelector('details').open`), true);
      assert.equal(await run<boolean>('window.same'), true, 'it was not loaded again');
    }
  });

  test('says that what it shows is old when the warmer does not answer, and recovers', async () => {
    await using opened = await open(fakeStatus({ images: [fakeImage('docker.io/library/debian:12')] }), {
      clock: true,
    });
    const { page, web, pass, run } = opened;
    const shown = (text: RegExp): Promise<void> =>
      eventually(async () => {
        await pass(2500);
        return text.test(await page.locator('#trouble').innerText());
      });
    assert.match(await page.locator('.ready').innerText(), /^Ready/);
    assert.equal(await page.locator('#trouble').isVisible(), false);
    const status = web.warming.status.bind(web.warming);
    web.warming.status = () => Promise.reject(new Error('the volume is gone'));
    await shown(/^The warmer cannot say how it is\. You see how it was at \S+/);
    assert.deepEqual((await audit(opened)).violations, []);
    assert.match(await page.locator('.ready').innerText(), /^No answer/, 'nothing claims that it is ready');
    assert.match(await page.title(), /^No answer · /);
    assert.match(await run<string>(`getComputedStyle(document.querySelector('main')).filter`), /grayscale/);
    await run('scrollTo(0, document.body.scrollHeight)');
    assert.equal(
      await run<boolean>(`document.querySelector('#trouble').getBoundingClientRect().top >= 0`),
      true,
      'also further down',
    );
    await web[Symbol.asyncDispose]();
    await shown(/^The warmer does not answer\./);
    await using again = await openWebServer({ port: web.port });
    again.warming.current = await status();
    await shown(/^$/);
    assert.match(await page.locator('.ready').innerText(), /^Ready/);
    assert.equal(await page.title(), 'node-1 · Kiln warmer');
    assert.equal(await run<boolean>(`document.body.hasAttribute('data-old')`), false);
  });

  test('stops asking while updates are paused', async () => {
    await using opened = await open(busyStatus(3), { clock: true });
    const { page, requests, pass } = opened;
    await page.getByRole('button', { name: 'Pause updates' }).click();
    await page.getByText(/^Paused at/).waitFor();
    const before = requests.length;
    await pass(60_000);
    assert.equal(requests.length, before);
    await page.getByRole('button', { name: 'Resume updates' }).click();
    await page.getByText(/^Updated/).waitFor();
    assert.ok(requests.length > before);
  });

  test('shows what others wrote as text, in its own direction, and asks no other host for anything', async () => {
    const evil = `"'><script>window.pwned = 1</script><img src="http://evil.example/x" onerror="window.pwned = 1">`;
    const turned = `\u202e${evil}\u202e`;
    const status = troubled();
    await using opened = await open({
      ...{ ...status, version: evil },
      images: [
        fakeImage(`a.example/${evil}:1`, {
          ...{ phase: 'failed', digest: undefined, failures: 2, usedBy: [turned], platform: evil },
          lastError: { code: evil, message: turned, remedy: evil, at: new Date() },
        }),
      ],
      checks: [{ name: evil, ok: false, detail: turned }],
      builds: [
        { build: evil, label: turned, images: [{ reference: evil, platform: evil }], since: new Date() },
      ],
      pulls: [{ ...status.pulls[0], reference: evil, error: turned, outcome: 'failed' } as never],
      configuration: { ...status.configuration, path: evil, rejected: { at: new Date(), message: turned } },
    });
    const { page, requests, complaints, run } = opened;
    assert.equal(await run<number>(`document.querySelectorAll('img, main script, main iframe').length`), 0);
    assert.equal(await run<boolean>('window.pwned === undefined'), true);
    assert.equal(await page.locator('tr', { hasText: evil }).first().isVisible(), true);
    const outside = await run<number>(
      `(() => {
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        let found = 0;
        while (walker.nextNode())
          if (walker.currentNode.data.includes('\\u202e') && walker.currentNode.parentElement.closest('bdi') === null)
            found += 1;
        return found;
      })()`,
    );
    assert.equal(outside, 0, 'nothing turns the words beside it round');
    assert.ok(requests.every((address) => address.startsWith(`http://127.0.0.1:${opened.web.port}/`)));
    assert.equal(complaints.join('\n'), '');
    await run(
      `document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.pwned = 1' }));
       document.body.insertAdjacentHTML('beforeend', '<img src="http://evil.example/y" onerror="window.pwned = 1">')`,
    );
    await eventually(() => complaints.filter((text) => text.includes('Content Security Policy')).length >= 2);
    assert.equal(await run<boolean>('window.pwned === undefined'), true, 'even if there were a hole');
  });

  test('says without JavaScript from when it is, and can be searched all the same', async () => {
    await using opened = await open(busyStatus(30), { javaScriptEnabled: false });
    const { page } = opened;
    assert.match(await page.locator('noscript').first().innerText(), /As of \d\d:\d\d UTC.*reload it/);
    assert.equal(await page.getByRole('button', { name: 'Pause updates' }).isVisible(), false);
    await page.getByRole('searchbox').fill('keycloak');
    await page.getByRole('button', { name: 'Find' }).click();
    await page.waitForURL(/q=keycloak/);
    assert.match(await page.locator('#found').innerText(), /^2 of 30 images$/);
  });

  test('moves nothing for people who want that', async () => {
    await using opened = await open(busyStatus(12), { reducedMotion: 'reduce' });
    const moving = `[...document.querySelectorAll('*')].filter((element) => {
      const { transitionDuration, animationName } = getComputedStyle(element);
      return transitionDuration !== '0s' || animationName !== 'none';
    }).length`;
    assert.equal(await opened.run<number>(moving), 0);
  });

  describe('plots the hit rate', () => {
    const sample = (minutesAgo: number, hits: number, misses: number): HitRateSample => ({
      at: new Date(Math.floor((Date.now() - minutesAgo * 60_000) / 300_000) * 300_000),
      ...{ hits, misses },
    });
    const plot = async (hitRate: readonly HitRateSample[]): Promise<TestPage> =>
      open(fakeStatus({ hitRate }));
    const panel = '[aria-labelledby=rate-title]';

    for (const [what, samples] of [
      ['no sample', []],
      ['samples in which nothing was asked for', [sample(20, 0, 0)]],
    ] as const)
      test(`as nothing but words for ${what}`, async () => {
        await using opened = await plot(samples);
        assert.equal(await opened.page.locator(`${panel} svg`).count(), 0);
        assert.match(await opened.page.locator(panel).innerText(), /–\s+No build has reported yet/);
      });

    test('as a dot for one sample', async () => {
      await using opened = await plot([sample(0, 3, 1)]);
      const { page } = opened;
      assert.equal(await page.locator('.plot .dot').count(), 1);
      assert.equal(await page.locator('.plot .area').count(), 0);
      assert.match(await page.locator(panel).innerText(), /75\s%\s+of 4 base images/);
      assert.equal(await page.locator('.volume rect').count(), 2);
    });

    for (const [what, hits, misses, height, rate] of [
      ['hits alone at the top', 4, 0, 0, /100\s%/],
      ['misses alone at the bottom', 0, 4, 100, /^0\s%/m],
    ] as const)
      test(`with ${what}`, async () => {
        await using opened = await plot([25, 20, 15, 10].map((minutes) => sample(minutes, hits, misses)));
        const { page } = opened;
        const path = (await page.locator('.plot .line').getAttribute('d')) ?? '';
        assert.deepEqual(
          new Set([...path.matchAll(/[ML][\d.]+ ([\d.]+)/g)].map(([, y]) => Number(y))),
          new Set([height]),
        );
        assert.match(await page.locator(`${panel} .figure`).innerText(), rate);
        assert.equal(await page.locator('.volume rect').count(), 4);
      });

    test('without a line through hours in which nothing was asked for, with axes, words and a table', async () => {
      const hitRate = [600, 595, 590, 60, 55, 0].map((minutes) => sample(minutes, 9, 3));
      await using opened = await plot([...hitRate.slice(0, 3), sample(585, 0, 12), ...hitRate.slice(3)]);
      const { page } = opened;
      const runs = await page.locator('.plot .line').count();
      assert.ok(runs >= 2, `${runs} lines`);
      const svg = page.getByRole('img', {
        name: /^Hit rate over the last \d+ hours: 64\s% of 84 base images/,
      });
      assert.equal(await svg.count(), 1);
      assert.match((await svg.locator('title').textContent()) ?? '', /at its lowest \d+\s%, lately 75\s%$/);
      const text = await page.locator('.plot').innerText();
      for (const label of [
        '100 %',
        '50 %',
        '0 %',
        '10 hours ago',
        'now',
        'hits',
        'misses',
        'in each 15 minutes',
      ])
        assert.ok(text.includes(label), `${label} in ${text}`);
      await page.getByText('As a table').click();
      const rows = page.getByRole('region', { name: 'Hit rate over time' }).locator('tbody tr');
      const hits = (await rows.allInnerTexts()).map((row) => Number(row.split('\t')[2]));
      assert.equal(
        hits.reduce((sum, number) => sum + number, 0),
        54,
        'the table tells the same',
      );
    });
  });
});

/** Has axe look at a page. @returns every breach with the first place, and the rules that were kept somewhere. */
async function audit({
  page,
  run,
}: TestPage): Promise<{ readonly violations: readonly string[]; readonly passed: readonly string[] }> {
  await page.evaluate(axe);
  return run(`axe.run({ resultTypes: ['violations'] }).then(({ violations, passes }) => ({
    violations: violations.map(({ id, nodes }) => id + ' ' + nodes.length + ' times: ' + nodes[0].failureSummary + ' ' + nodes[0].html),
    passed: passes.map(({ id }) => id),
  }))`);
}

/** JavaScript: what a person would call an element. */
const nameOf = `(element) => element.localName + ' ' +
  (element.getAttribute('aria-label') ?? element.labels?.[0]?.innerText ?? element.innerText).trim()`;
