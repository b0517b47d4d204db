import { Progress } from '../../src/support/index.ts';
import { parseListenAddress } from '../../warmer/daemon/listen-address.ts';
import { WebServer } from '../../warmer/daemon/web-server.ts';
import { FakeWarming } from './warming.ts';

/** The daemon's web server, over a warming that says what a test wants. */
export interface TestWeb extends AsyncDisposable {
  readonly warming: FakeWarming;
  readonly port: number;
  /** What was logged. */
  readonly warnings: string[];
}

export async function openWebServer(
  options: { readonly leases?: () => number; readonly patience?: number; readonly port?: number } = {},
): Promise<TestWeb> {
  const { port: wanted = 0, ...parts } = options;
  const warming = new FakeWarming();
  const progress = new Progress();
  const warnings: string[] = [];
  progress.listen((event) => event.type === 'log' && warnings.push(event.message));
  const web = new WebServer(warming, { name: 'node-1', leases: () => 0, progress, ...parts });
  const { port } = await web.listen(parseListenAddress(`127.0.0.1:${wanted}`));
  return { warming, port, warnings, [Symbol.asyncDispose]: () => web[Symbol.asyncDispose]() };
}
