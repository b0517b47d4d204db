import type { Progress } from '../../src/support/index.ts';
import type { ListenAddress } from './listen-address.ts';
import { NodeServer, type NodeServerLimits } from './node-server.ts';
import type { Warming } from './types.ts';
import { WebServer } from './web-server.ts';

export interface ServerOptions {
  readonly warming: Warming;
  /** The volume. It must have been opened for writing. */
  readonly directory: string;
  /** Serve the builds of this node, at the socket on the volume. */
  readonly socket: boolean;
  /** Where metrics, probes and the status page are served. */
  readonly listen: readonly ListenAddress[];
  /** What the status page calls this warmer; default the host's name, which in a pod is the pod's. */
  readonly name?: string | undefined;
  readonly progress: Progress;
  readonly limits?: Partial<NodeServerLimits>;
}

/** The daemon as it is seen from outside, until this is disposed. */
export interface Servers extends AsyncDisposable {
  /** The path of the node's socket, when there is one. */
  readonly socket: string | undefined;
  /** Where it listens, with the ports that were chosen. */
  readonly listening: readonly ListenAddress[];
}

/**
 * Starts all servers of the daemon: the node's socket, and HTTP for metrics, probes and the status page. Probes answer
 * from the start, so the daemon calls this before its first round and not after it.
 *
 * @throws EnvironmentError `E_WARMER_RUNNING` when another daemon serves the volume, `E_SOCKET_PATH_TOO_LONG`,
 * `E_CANNOT_LISTEN`. Nothing is left open then.
 */
export async function startServers(options: ServerOptions): Promise<Servers> {
  const { warming, directory, socket, listen, name, progress, limits } = options;
  await using cleanup = new AsyncDisposableStack();
  const node = socket ? cleanup.use(await NodeServer.start(directory, warming, progress, limits)) : undefined;
  const web = cleanup.use(new WebServer(warming, { name, leases: () => node?.leases ?? 0, progress }));
  const listening: ListenAddress[] = [];
  for (const address of listen) listening.push(await web.listen(address));
  const open = cleanup.move();
  return { socket: node?.path, listening, [Symbol.asyncDispose]: () => open.disposeAsync() };
}
