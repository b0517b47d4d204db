import { readFile } from 'node:fs/promises';
import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls';
import { Agent, type Dispatcher, ProxyAgent } from 'undici';
import { EnvironmentError, messageOf } from '../../support/index.ts';

/** Whom a connection trusts, and who we are on it. */
export interface TlsSettings {
  /** Any certificate is accepted. */
  readonly skipVerify?: boolean;
  /** File of PEM certificates that are trusted beside the usual ones. */
  readonly certificate?: string | undefined;
  readonly clientCertificate?: { readonly certificate: string; readonly key: string } | undefined;
  /** Trust the certificates of the machine's own store too. Reading them takes long, so only when they are needed. */
  readonly systemStore?: boolean;
}

/** What decides which connections a request may use. */
export interface Route {
  readonly tls: TlsSettings;
  readonly proxy: URL | undefined;
  readonly transfer: boolean;
}

const connectMilliseconds = 15_000;
const limits = { headersTimeout: 60_000, bodyTimeout: 120_000, keepAliveTimeout: 30_000 };

/**
 * Connection pools by route. Undici takes long to load, so this module is only imported when the first request is made.
 * Transfers are bounded by the client's places; were their connections bounded too, a push that reads from the registry it
 * writes to could wait for itself.
 */
export class Pools {
  readonly #pools = new Map<string, Promise<Dispatcher>>();

  /** @throws EnvironmentError `E_CERTIFICATE_FILE` when a certificate or key cannot be read. */
  dispatcher(route: Route): Promise<Dispatcher> {
    const key = JSON.stringify([route.tls, route.proxy?.href, route.transfer]);
    const known = this.#pools.get(key);
    if (known !== undefined) return known;
    const created = create(route);
    this.#pools.set(key, created);
    return created;
  }

  async destroy(): Promise<void> {
    for (const pool of await Promise.allSettled(this.#pools.values()))
      if (pool.status === 'fulfilled') await pool.value.destroy();
  }
}

async function create({ tls, proxy, transfer }: Route): Promise<Dispatcher> {
  const secureContext = await contextOf(tls);
  const connect = {
    timeout: connectMilliseconds,
    rejectUnauthorized: tls.skipVerify !== true,
    ...(secureContext === undefined ? {} : { secureContext }),
  };
  const options = {
    ...limits,
    // Uploads over HTTP/2 crawl behind proxies with small windows, and some registries' are broken.
    allowH2: false,
    connections: transfer ? null : 16,
  };
  if (proxy === undefined) return new Agent({ ...options, connect });
  return new ProxyAgent({
    ...options,
    uri: proxy.href,
    connectTimeout: connectMilliseconds,
    requestTls: connect,
  });
}

async function contextOf(tls: TlsSettings): Promise<SecureContext | undefined> {
  const { certificate, clientCertificate, systemStore } = tls;
  if (certificate === undefined && clientCertificate === undefined && systemStore !== true) return undefined;
  const [authority, own, key] = await Promise.all([
    readPem(certificate),
    readPem(clientCertificate?.certificate),
    readPem(clientCertificate?.key),
  ]);
  try {
    return createSecureContext({
      ca: [
        ...getCACertificates('default'),
        ...(systemStore === true ? getCACertificates('system') : []),
        ...(authority === undefined ? [] : [authority]),
      ],
      ...(own === undefined ? {} : { cert: own }),
      ...(key === undefined ? {} : { key }),
    });
  } catch (error) {
    const files = [certificate, clientCertificate?.certificate, clientCertificate?.key];
    throw unusable(files.filter((file) => file !== undefined).join(', '), error);
  }
}

async function readPem(path: string | undefined): Promise<Buffer | undefined> {
  if (path === undefined) return undefined;
  try {
    return await readFile(path);
  } catch (error) {
    throw unusable(path, error);
  }
}

function unusable(files: string, cause: unknown): EnvironmentError {
  return new EnvironmentError(`cannot use ${files} for connections to a registry: ${messageOf(cause)}`, {
    code: 'E_CERTIFICATE_FILE',
    cause,
    remedy: 'They must be readable files in PEM form; a key must fit its certificate.',
  });
}
