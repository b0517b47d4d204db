import { createServer, request as send, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';

/** How a {@link Gateway} treats a request. */
export type Treatment =
  /** Passes it on. */
  | 'pass'
  /** Cuts the connection. */
  | 'cut'
  /** Does not answer before `release` is called. */
  | 'hold'
  | { readonly status: number; readonly headers?: Readonly<Record<string, string>> };

/** A proxy before a registry, which can make it look faulty. */
export interface Gateway extends AsyncDisposable {
  /** `127.0.0.1:port`; images of the registry are reached under it. */
  readonly host: string;
  /** `METHOD path` of every request so far. */
  readonly requests: string[];
  /** Decides on each request; passes everything on at first. */
  treat: (request: string) => Treatment;
  /** The Range headers of requests so far. */
  readonly ranges: string[];
  /** Bytes a second of each answer; undefined for as many as there are. */
  slow: number | undefined;
  /** Passes on what is held. */
  release(): void;
}

export async function openGateway(registry: string): Promise<Gateway> {
  const requests: string[] = [];
  const held: (() => void)[] = [];
  const server = createServer((request, response) => {
    const line = `${request.method ?? ''} ${request.url ?? ''}`;
    requests.push(line);
    const treatment = gateway.treat(line);
    if (request.headers.range !== undefined) gateway.ranges.push(request.headers.range);
    const pass = (): void => forward(registry, request, response, gateway.slow);
    if (treatment === 'pass') pass();
    else if (treatment === 'hold') held.push(pass);
    else if (treatment === 'cut') request.destroy();
    else response.writeHead(treatment.status, treatment.headers ?? {}).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const gateway: Gateway = {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    ranges: [],
    slow: undefined,
    treat: () => 'pass',
    release: () => {
      for (const pass of held.splice(0)) pass();
    },
    [Symbol.asyncDispose]: () => {
      server.closeAllConnections();
      return new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
  return gateway;
}

function forward(
  registry: string,
  request: IncomingMessage,
  response: ServerResponse,
  slow: number | undefined,
): void {
  const [hostname, port] = registry.split(':');
  const upstream = send(
    { hostname, port, method: request.method, path: request.url, headers: request.headers },
    (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      if (slow === undefined) answer.pipe(response);
      else pipeline(answer, throttle(slow), response).catch(() => undefined);
    },
  );
  upstream.on('error', () => response.destroy());
  response.on('close', () => upstream.destroy());
  request.pipe(upstream);
}

function throttle(bytesPerSecond: number): (chunks: AsyncIterable<Buffer>) => AsyncGenerator<Buffer> {
  return async function* (chunks) {
    for await (const chunk of chunks) {
      await sleep((chunk.length / bytesPerSecond) * 1000);
      yield chunk;
    }
  };
}
