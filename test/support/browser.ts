import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core';

/** Chromium as Debian, other distributions and people's machines call it. */
const names = ['chromium', 'chromium-browser', 'google-chrome-stable', 'google-chrome', 'chrome'];

/** Where Chromium lies: what `CHROMIUM` names, or else the first in PATH; undefined when there is none. */
export function findChromium(): string | undefined {
  const directories = (process.env.PATH ?? '').split(':').filter((directory) => directory !== '');
  const paths = directories.flatMap((directory) => names.map((name) => join(directory, name)));
  return [process.env.CHROMIUM ?? '', ...paths].find((path) => path !== '' && isExecutable(path));
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** A page of its own session, and what it did that nobody should have to look for. */
export interface TestPage extends AsyncDisposable {
  readonly page: Page;
  /** The address of every request that it made. */
  readonly requests: string[];
  /** Errors of its scripts, and whatever the browser complained of: also breaches of the content security policy. */
  readonly complaints: string[];
  /** Lets so much time go by for the page's timers. Only for pages that were opened with a clock. */
  readonly pass: (milliseconds: number) => Promise<void>;
  /** Evaluates an expression of JavaScript in the page. */
  readonly run: <Result = void>(expression: string) => Promise<Result>;
}

export interface TestPageOptions extends BrowserContextOptions {
  /** The page's timers wait for {@link TestPage.pass}. */
  readonly clock?: boolean;
}

export interface TestBrowser extends AsyncDisposable {
  open(address: string, options?: TestPageOptions): Promise<TestPage>;
}

export async function openBrowser(): Promise<TestBrowser> {
  const executablePath = findChromium();
  if (executablePath === undefined) throw new Error('no Chromium: install it, or name it in CHROMIUM');
  // Chromium's sandbox does not start as root, and shared memory is small in containers.
  const browser = await chromium.launch({
    executablePath,
    args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'],
  });
  return {
    open: (address, options) => openPage(browser, address, options),
    [Symbol.asyncDispose]: () => browser.close(),
  };
}

async function openPage(
  browser: Browser,
  address: string,
  { clock = false, ...options }: TestPageOptions = {},
): Promise<TestPage> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  const requests: string[] = [];
  const complaints: string[] = [];
  page.on('request', (request) => requests.push(request.url()));
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
  });
  if (clock) await page.clock.install();
  await page.goto(address);
  return {
    ...{ page, requests, complaints },
    pass: (milliseconds) => page.clock.fastForward(milliseconds),
    run: <Result>(expression: string) => page.evaluate<Result>(expression),
    [Symbol.asyncDispose]: () => context.close(),
  };
}
