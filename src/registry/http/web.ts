import type { Readable } from 'node:stream';
import { KilnError } from '../../support/index.ts';
import { headerOf, type Send } from './message.ts';
import { followRedirects } from './redirect.ts';

/** A file of any web server to be read. */
export interface WebRequest {
  /** User and password in it are for this server alone, and are sent nowhere else. */
  readonly url: URL;
  readonly headers?: Readonly<Record<string, string>>;
  /** The value of an Authorization header, for this server alone; in place of user and password in the address. */
  readonly authorization?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What a web server answered, after its redirects. The body is to be read or dumped. */
export interface WebAnswer {
  readonly status: number;
  header(name: string): string | undefined;
  /** The address that answered. */
  readonly url: URL;
  readonly body: Readable & { dump(): Promise<void> };
}

/** Whom connections for git, which makes its own, are to trust; files in PEM form. */
export interface HostTrust {
  readonly skipVerify: boolean;
  readonly certificate: string | undefined;
  readonly clientCertificate: { readonly certificate: string; readonly key: string } | undefined;
}

/**
 * Reads a file of a web server that need not be a registry.
 *
 * @throws KilnError as requests to registries do: `E_REGISTRY_UNAVAILABLE`, `E_REGISTRY_CERTIFICATE`, `E_REGISTRY_REFUSED` for
 * redirects that are not followed.
 */
export async function readWebFile(send: Send, request: WebRequest): Promise<WebAnswer> {
  const { headers, signal } = request;
  const login = request.authorization ?? authorizationOf(request.url);
  let url = new URL(request.url);
  url.username = '';
  url.password = '';
  const elsewhere: Send = (sent) => {
    ({ url } = sent);
    return send(sent);
  };
  const own: Send = (sent) =>
    elsewhere(login === undefined ? sent : { ...sent, headers: { ...sent.headers, authorization: login } });
  const first = { method: 'GET', url, headers: { ...headers }, transfer: true, signal } as const;
  const response = await followRedirects(first, own, elsewhere);
  return {
    status: response.status,
    header: (name) => headerOf(response, name),
    url,
    body: response.body,
  };
}

/** A text to be put at an address of a web server. */
export interface WebText {
  /** User and password in it are for this server alone; what follows a `?` may be a secret too, and is in no message. */
  readonly url: URL;
  readonly text: string;
  readonly signal?: AbortSignal | undefined;
}

/** PUTs a text. @throws KilnError as {@link readWebFile}, and `E_WEB_REFUSED` when it is not taken. */
export async function writeWebFile(send: Send, { url, text, signal }: WebText): Promise<void> {
  const login = authorizationOf(url);
  const bare = new URL(url);
  bare.username = '';
  bare.password = '';
  const body = Buffer.from(text);
  const response = await send({
    method: 'PUT',
    url: bare,
    headers: {
      'content-type': 'text/plain',
      'content-length': String(body.length),
      ...(login === undefined ? {} : { authorization: login }),
    },
    body: () => body,
    signal,
  });
  await response.body.dump();
  if (response.status < 200 || response.status > 299)
    throw new KilnError(`PUT ${url.origin}${url.pathname}: the server answered ${response.status}`, {
      code: 'E_WEB_REFUSED',
      category: 'environment',
      remedy: 'Check that the address takes a PUT, and that it has not expired.',
    });
}

/** The value of an Authorization header for the user and password in an address (RFC 7617); undefined without any. */
export function authorizationOf({ username, password }: URL): string | undefined {
  if (username === '' && password === '') return undefined;
  const login = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return `Basic ${Buffer.from(login).toString('base64')}`;
}
