import type { Descriptor, Digest } from '../../oci/index.ts';
import { isAbortError, KilnError } from '../../support/index.ts';
import type { Scope } from '../auth/authorizer.ts';
import type { Endpoint } from '../endpoint.ts';
import { errorFrom, headerOf, type HttpBody, type HttpRequest, type HttpResponse } from '../http/message.ts';

/** An upload that the registry has begun (OCI distribution specification, "Pushing Blobs"). Each answer gives the next state. */
export interface UploadSession {
  readonly url: URL;
  /** Bytes that the registry has. */
  readonly offset: number;
  /** The registry wants no chunk but the last to be smaller than this. */
  readonly minimumChunk: number;
}

/** Content of a request: made anew for each attempt. */
export interface UploadBody {
  readonly size: number;
  open(): HttpBody;
}

const uploads = 'blobs/uploads/';
const noBody = { 'content-length': '0' };

/** Begins an upload. @throws RegistryError. */
export async function startUpload(
  endpoint: Endpoint,
  signal: AbortSignal | undefined,
): Promise<UploadSession> {
  const response = await endpoint.send({ method: 'POST', path: uploads, headers: noBody, signal });
  if (response.status !== 202)
    throw await errorFrom(response, `push to ${endpoint.fullName}`, endpoint.pushHint);
  await response.body.dump();
  return begun(endpoint, response, signal);
}

/** Asks for a mount from another repository; a registry that cannot do it begins an upload instead, or does neither. */
export async function mountOrStart(
  endpoint: Endpoint,
  descriptor: Descriptor,
  source: string,
  signal: AbortSignal | undefined,
): Promise<'mounted' | UploadSession | undefined> {
  const query = new URLSearchParams({ mount: descriptor.digest, from: source });
  const request = {
    method: 'POST',
    path: `${uploads}?${query.toString()}`,
    headers: noBody,
    signal,
  } as const;
  let response: HttpResponse;
  try {
    response = await endpoint.send(request, 'pull,push', [source]);
  } catch (error) {
    // No token for the source, for instance. If it is something worse, the upload meets it too.
    if (isAbortError(error) || !(error instanceof KilnError)) throw error;
    return undefined;
  }
  await response.body.dump();
  if (response.status === 201) return 'mounted';
  return response.status === 202 ? begun(endpoint, response, signal) : undefined;
}

/** Sends the next chunk with PATCH. @throws RegistryError; 416 when the registry stands elsewhere. */
export async function sendChunk(
  endpoint: Endpoint,
  session: UploadSession,
  body: UploadBody,
  signal: AbortSignal | undefined,
): Promise<UploadSession> {
  const end = session.offset + body.size;
  const response = await sendTo(endpoint, {
    method: 'PATCH',
    url: session.url,
    headers: { ...contentHeaders(body), 'content-range': `${session.offset}-${end - 1}` },
    body: () => body.open(),
    transfer: true,
    once: true,
    signal,
  });
  if (response.status !== 202 && response.status !== 204 && response.status !== 201)
    throw await errorFrom(response, `PATCH ${endpoint.fullName} (upload)`);
  await response.body.dump();
  return { ...session, url: nextUrl(session.url, response, endpoint), offset: rangeEnd(response) ?? end };
}

/** Ends an upload with PUT. @param body what is left to be sent. @throws RegistryError. */
export async function finishUpload(
  endpoint: Endpoint,
  session: UploadSession,
  digest: Digest,
  body: UploadBody | undefined,
  signal: AbortSignal | undefined,
): Promise<void> {
  const url = new URL(session.url);
  url.searchParams.set('digest', digest);
  const response = await sendTo(endpoint, {
    method: 'PUT',
    url,
    once: true,
    signal,
    ...(body === undefined
      ? { headers: noBody }
      : { headers: contentHeaders(body), body: () => body.open(), transfer: true }),
  });
  if (response.status !== 201 && response.status !== 204)
    throw await errorFrom(response, `PUT ${endpoint.label(digest)}`);
  await response.body.dump();
}

/** Asks where the registry stands; undefined when it does not say, and the upload must begin anew. */
export async function askSession(
  endpoint: Endpoint,
  session: UploadSession,
  signal: AbortSignal | undefined,
): Promise<UploadSession | undefined> {
  const response = await sendTo(endpoint, { method: 'GET', url: session.url, signal });
  await response.body.dump();
  const offset = rangeEnd(response);
  // `0-0` is what registries say both for nothing and for one byte.
  if (response.status !== 204 || offset === undefined || offset <= 1) return undefined;
  return { ...session, url: nextUrl(session.url, response, endpoint), offset };
}

/** Tells the registry that it may forget an upload. Whether it listens does not matter. */
export async function cancelUpload(
  endpoint: Endpoint,
  session: UploadSession,
  signal: AbortSignal | undefined,
): Promise<void> {
  try {
    const request = { method: 'DELETE', url: session.url, headers: noBody, once: true, signal } as const;
    // Registries call this deleting, for which those who may push need not have leave.
    const response = await sendTo(endpoint, request, 'pull,push,delete');
    await response.body.dump();
  } catch (error) {
    if (isAbortError(error)) throw error;
  }
}

function contentHeaders(body: UploadBody): Record<string, string> {
  return { 'content-type': 'application/octet-stream', 'content-length': String(body.size) };
}

async function begun(
  endpoint: Endpoint,
  response: HttpResponse,
  signal: AbortSignal | undefined,
): Promise<UploadSession> {
  const minimum = Number(headerOf(response, 'oci-chunk-min-length') ?? 0);
  return {
    url: nextUrl(await endpoint.url(uploads, signal), response, endpoint),
    offset: 0,
    minimumChunk: Number.isSafeInteger(minimum) && minimum > 0 ? minimum : 0,
  };
}

async function sendTo(
  endpoint: Endpoint,
  request: HttpRequest,
  actions: Scope['actions'] = 'pull,push',
): Promise<HttpResponse> {
  const { host } = await endpoint.url('', request.signal);
  return request.url.host === host
    ? endpoint.connection.send(request, endpoint.scope(actions))
    : endpoint.connection.sendElsewhere(request);
}

/** The address that an answer gives for the next request; without one the address stays. */
function nextUrl(current: URL, response: HttpResponse, endpoint: Endpoint): URL {
  const text = headerOf(response, 'location');
  if (text === undefined && !current.pathname.endsWith('/uploads/')) return current;
  if (text === undefined || !URL.canParse(text, current.href))
    throw refused(`${endpoint.registry} gave no address to upload to`);
  const url = new URL(text, current);
  // A registry behind a proxy may name itself by http; the way it was reached is the one that works.
  if (url.host === current.host) url.protocol = current.protocol;
  if (url.protocol !== current.protocol)
    throw refused(`${endpoint.registry} wants the upload over ${url.protocol}//${url.host}`);
  return url;
}

function refused(message: string): KilnError {
  return new KilnError(message, { code: 'E_REGISTRY_REFUSED', category: 'registry' });
}

/** How many bytes a `Range: 0-<last byte>` header stands for. */
function rangeEnd(response: HttpResponse): number | undefined {
  const match = /^(?:bytes=)?0-([0-9]{1,15})$/.exec(headerOf(response, 'range') ?? '');
  return match === null ? undefined : Number(match[1]) + 1;
}
