import { createServer, request as send, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

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
    if (treatment === 'pass') forward(registry, request, response);
    else if (treatment === 'hold') held.push(() => forward(registry, request, response));
    else if (treatment === 'cut') request.destroy();
    else response.writeHead(treatment.status, treatment.headers ?? {}).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const gateway: Gateway = {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
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

function forward(registry: string, request: IncomingMessage, response: ServerResponse): void {
  const [hostname, port] = registry.split(':');
  const upstream = send(
    { hostname, port, method: request.method, path: request.url, headers: request.headers },
    (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(response);
    },
  );
  upstream.on('error', () => response.destroy());
  response.on('close', () => upstream.destroy());
  request.pipe(upstream);
}
