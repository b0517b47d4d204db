import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Descriptor } from '../oci/index.ts';
import { isAbortError, KilnError, messageOf } from '../support/index.ts';
import type { RepositoryEndpoint } from './repository.ts';
import { TransferMeter } from './transfer-meter.ts';
import { errorFrom, headerOf, type HttpResponse } from './transport.ts';

export interface UploadOptions {
  /** Repositories of the same registry that may have the blob already, most likely first. */
  readonly mountFrom?: readonly string[];
}

export type UploadOutcome = 'exists' | 'mounted' | 'uploaded';

const attempts = 4;

/** See {@link Repository.uploadBlob}. */
export async function uploadBlob(
  endpoint: RepositoryEndpoint,
  descriptor: Descriptor,
  open: (signal?: AbortSignal) => Promise<Readable>,
  options: UploadOptions,
  signal?: AbortSignal,
): Promise<UploadOutcome> {
  if (await exists(endpoint, descriptor, signal)) return 'exists';
  let session: URL | undefined;
  for (const source of options.mountFrom ?? []) {
    const mounted = await tryMount(endpoint, descriptor, source, signal);
    if (mounted === 'mounted') return 'mounted';
    session = mounted;
  }
  for (let attempt = 1; ; attempt++) {
    try {
      await send(endpoint, descriptor, open, session ?? (await start(endpoint, signal)), signal);
      return 'uploaded';
    } catch (error) {
      const refused = error instanceof KilnError && error.code !== 'E_REGISTRY_UNAVAILABLE';
      if (attempt >= attempts || refused || isAbortError(error) || signal?.aborted === true) throw error;
      endpoint.connection.progress?.warn(
        `the upload of ${endpoint.label(descriptor.digest)} broke off (${messageOf(error)}), trying again`,
      );
      session = undefined;
      await sleep(
        200 * 2 ** attempt * (0.5 + Math.random()),
        undefined,
        signal === undefined ? {} : { signal },
      );
    }
  }
}

async function exists(
  endpoint: RepositoryEndpoint,
  descriptor: Descriptor,
  signal?: AbortSignal,
): Promise<boolean> {
  const url = endpoint.url(`blobs/${descriptor.digest}`);
  const response = await endpoint.connection.send(
    { method: 'HEAD', url, signal },
    endpoint.scope('pull,push'),
  );
  await response.body.dump();
  if (response.status === 401 || response.status === 403)
    throw await errorFrom(response, `push to ${endpoint.registry}/${endpoint.name}`);
  return response.status === 200 || response.status === 307;
}

/** Asks for a mount; a registry that cannot gives an upload session instead. */
async function tryMount(
  endpoint: RepositoryEndpoint,
  descriptor: Descriptor,
  source: string,
  signal?: AbortSignal,
): Promise<'mounted' | URL | undefined> {
  const url = endpoint.url('blobs/uploads/');
  url.searchParams.set('mount', descriptor.digest);
  url.searchParams.set('from', source);
  const response = await endpoint.connection.send(
    { method: 'POST', url, headers: { 'content-length': '0' }, signal },
    endpoint.scope('pull,push', [source]),
  );
  await response.body.dump();
  if (response.status === 201) return 'mounted';
  // Not allowed to read the source, or no such thing as a mount: the blob is uploaded.
  return response.status === 202 ? location(endpoint, response) : undefined;
}

async function start(endpoint: RepositoryEndpoint, signal?: AbortSignal): Promise<URL> {
  const url = endpoint.url('blobs/uploads/');
  const response = await endpoint.connection.send(
    { method: 'POST', url, headers: { 'content-length': '0' }, signal },
    endpoint.scope('pull,push'),
  );
  if (response.status !== 202)
    throw await errorFrom(response, `push to ${endpoint.registry}/${endpoint.name}`);
  await response.body.dump();
  return location(endpoint, response);
}

function location(endpoint: RepositoryEndpoint, response: HttpResponse): URL {
  const text = headerOf(response, 'location');
  const base = endpoint.url('blobs/uploads/');
  if (text === undefined || !URL.canParse(text, base.href))
    throw new KilnError(`${endpoint.registry} gave no address to upload to`, {
      code: 'E_REGISTRY_REFUSED',
      category: 'registry',
    });
  const url = new URL(text, base);
  // A registry behind a proxy may name itself by http; the way it was reached is the one that works.
  if (url.host === base.host) url.protocol = base.protocol;
  if (url.protocol !== base.protocol)
    throw new KilnError(`${endpoint.registry} wants the upload over ${url.protocol}//${url.host}`, {
      code: 'E_REGISTRY_REFUSED',
      category: 'registry',
    });
  return url;
}

async function send(
  endpoint: RepositoryEndpoint,
  descriptor: Descriptor,
  open: (signal?: AbortSignal) => Promise<Readable>,
  session: URL,
  signal?: AbortSignal,
): Promise<void> {
  const url = new URL(session);
  url.searchParams.set('digest', descriptor.digest);
  using meter = new TransferMeter(
    endpoint.connection.progress,
    'push',
    endpoint.label(descriptor.digest),
    descriptor.size,
  );
  const headers = { 'content-type': 'application/octet-stream', 'content-length': String(descriptor.size) };
  const body = async (): Promise<Readable> => {
    const stream = await open(signal);
    stream.on('data', (chunk: Buffer) => meter.add(chunk.length));
    stream.pause();
    return stream;
  };
  const own = url.host === endpoint.url('').host;
  const response = own
    ? await endpoint.connection.send(
        { method: 'PUT', url, headers, body, signal },
        endpoint.scope('pull,push'),
      )
    : await endpoint.connection.sendBare({ method: 'PUT', url, headers, body, signal });
  if (response.status !== 201 && response.status !== 204)
    throw await errorFrom(response, `PUT ${endpoint.label(descriptor.digest)}`);
  await response.body.dump();
}
