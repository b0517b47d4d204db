import { readFile } from 'node:fs/promises';
import { Agent } from 'node:http';
import { Agent as SecureAgent } from 'node:https';
import type { Readable } from 'node:stream';
import { getCACertificates } from 'node:tls';
import { GetObjectCommand, S3Client, type S3ClientConfig } from '@aws-sdk/client-s3';
import type { RegistryClient } from '../../../src/registry/index.ts';
import { isAbortError, messageOf, type ProcessEnvironment } from '../../../src/support/index.ts';
import {
  changed,
  type ObjectPart,
  type Position,
  refused,
  type RemoteObject,
  unavailable,
} from './remote-object.ts';

// The AWS SDK takes long to load: this module is imported when a context lies in S3, and not before.

const remedyForCredentials =
  'Check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, the role of the pod), and that they may do s3:GetObject on it.';
/** Milliseconds that nothing may arrive. */
const patience = { connectionTimeout: 15_000, socketTimeout: 120_000 };
/** Where buckets are asked for when nobody says a region: S3 answers with the bucket's own. */
const anyRegion = 'us-east-1';

/**
 * An object of Amazon S3, or of what speaks its protocol: `S3_ENDPOINT`, with `S3_FORCE_PATH_STYLE=true` for one that has no names for
 * buckets, as with kaniko, or `AWS_ENDPOINT_URL` of the SDK. Credentials are found as Amazon's own programs do.
 */
export class S3Object implements RemoteObject {
  readonly name: string;
  readonly #bucket: string;
  readonly #key: string;
  readonly #trustOf: RegistryClient['trustOf'];
  readonly #environment: ProcessEnvironment;
  #client: Promise<S3Client> | undefined;

  constructor(
    client: Pick<RegistryClient, 'trustOf'>,
    { bucket, key }: { readonly bucket: string; readonly key: string },
    name: string,
    environment: ProcessEnvironment,
  ) {
    this.#trustOf = (host) => client.trustOf(host);
    this.#bucket = bucket;
    this.#key = key;
    this.#environment = environment;
    this.name = name;
  }

  async read(from: Position | undefined, signal: AbortSignal): Promise<ObjectPart> {
    const where = { Bucket: this.#bucket, Key: this.#key };
    const part = from === undefined ? {} : { Range: `bytes=${from.offset}-`, IfMatch: from.version };
    try {
      this.#client ??= connect(this.#environment, this.#trustOf);
      const client = await this.#client;
      const answer = await client.send(new GetObjectCommand({ ...where, ...part }), { abortSignal: signal });
      const { Body: body, ContentLength: length, ETag: version } = answer;
      if (body === undefined) throw new Error('the answer has no content');
      if (from !== undefined && version !== from.version) throw changed(this.name);
      const size = length === undefined ? undefined : length + (from?.offset ?? 0);
      return { body: body as Readable, size, version };
    } catch (error) {
      throw this.#explained(error, signal);
    }
  }

  #explained(error: unknown, signal: AbortSignal): unknown {
    if (isAbortError(error) || signal.aborted) return error;
    const status = statusOf(error);
    const code = error instanceof Error ? error.name : '';
    if (status === 412 || status === 416) return changed(this.name);
    if (status !== undefined && status >= 400 && status < 500) {
      // A token that ran out is told by 400 (S3 API reference, error codes).
      const ofCredentials = /^(?:ExpiredToken|InvalidToken|TokenRefreshRequired|RequestTimeTooSkewed)$/.test(
        code,
      );
      return refused(this.name, ofCredentials ? 403 : status, remedyForCredentials, code);
    }
    if (status !== undefined && status < 400)
      return refused(
        this.name,
        status,
        remedyForCredentials,
        `${code}: name the bucket's region with AWS_REGION`,
      );
    return unavailable(this.name, code.includes('Credentials') ? noCredentials(error) : error);
  }
}

function statusOf(error: unknown): number | undefined {
  const { $metadata: metadata } = (error ?? {}) as { $metadata?: { httpStatusCode?: number } };
  return metadata?.httpStatusCode;
}

function noCredentials(cause: unknown): Error {
  return new Error(`there are no credentials of AWS: ${messageOf(cause)}`, { cause });
}

async function connect(
  environment: ProcessEnvironment,
  trustOf: RegistryClient['trustOf'],
): Promise<S3Client> {
  const { S3_ENDPOINT, S3_FORCE_PATH_STYLE } = environment;
  const endpoint = S3_ENDPOINT === '' ? undefined : S3_ENDPOINT;
  const own = endpoint ?? environment.AWS_ENDPOINT_URL_S3 ?? environment.AWS_ENDPOINT_URL;
  const options: S3ClientConfig = {
    ...(endpoint === undefined ? {} : { endpoint }),
    forcePathStyle: /^(?:1|true)$/i.test(S3_FORCE_PATH_STYLE ?? ''),
    followRegionRedirects: true,
    requestHandler: { ...patience, ...(await agents(own, trustOf)) },
  };
  return new S3Client({ ...options, region: await regionOf(environment) });
}

/** As the SDK finds it, and where it finds none, one that knows all buckets. */
async function regionOf({ AWS_DEFAULT_REGION }: ProcessEnvironment): Promise<string> {
  const probe = new S3Client({});
  try {
    return await probe.config.region();
  } catch {
    return AWS_DEFAULT_REGION ?? anyRegion;
  } finally {
    probe.destroy();
  }
}

/** The SDK itself knows of no proxies, nor of certificates that are given for a host. This machine needs no proxy. */
async function agents(
  endpoint: string | undefined,
  trustOf: RegistryClient['trustOf'],
): Promise<{ readonly httpAgent: Agent; readonly httpsAgent: SecureAgent }> {
  const { NO_PROXY = process.env.no_proxy ?? '' } = process.env;
  const exceptions = [NO_PROXY, 'localhost', '127.0.0.1', '[::1]'].filter((entry) => entry !== '').join(',');
  const proxyEnv = { ...process.env, NO_PROXY: exceptions, no_proxy: exceptions };
  const host = endpoint !== undefined && URL.canParse(endpoint) ? new URL(endpoint).host : undefined;
  const trust = host === undefined ? undefined : trustOf(host);
  const authority = trust?.certificate === undefined ? [] : [await readFile(trust.certificate, 'utf8')];
  // Somebody's own server may be vouched for by the machine's own store; reading it takes long.
  const stores = host === undefined ? [] : [...getCACertificates('default'), ...getCACertificates('system')];
  return {
    httpAgent: new Agent({ keepAlive: false, proxyEnv }),
    httpsAgent: new SecureAgent({
      keepAlive: false,
      proxyEnv,
      ...(host === undefined ? {} : { ca: [...stores, ...authority] }),
      ...(trust?.skipVerify === true ? { rejectUnauthorized: false } : {}),
    }),
  };
}
