import type { Readable } from 'node:stream';
import {
  AnonymousCredential,
  BlobClient,
  type BlobDownloadResponseParsed,
  BlobServiceClient,
  StorageSharedKeyCredential,
} from '@azure/storage-blob';
import { azureCredential, mayBeSomebodyToAzure } from '../../../src/registry/index.ts';
import { isAbortError, UsageError, type ProcessEnvironment } from '../../../src/support/index.ts';
import {
  changed,
  type ObjectPart,
  type Position,
  refused,
  type RemoteObject,
  unavailable,
} from './remote-object.ts';

// Azure's SDK takes long to load: this module is imported when a context is a blob of Azure's, and not before.

const remedyForCredentials =
  'Check AZURE_STORAGE_ACCESS_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING, or that the identity may read blobs of the container.';
const retryOptions = { maxTries: 4 };

/**
 * A blob of Azure Blob Storage. Credentials are, in this order, a signature in the address, `AZURE_STORAGE_CONNECTION_STRING` (which may name
 * another server), `AZURE_STORAGE_ACCESS_KEY` as with kaniko or `AZURE_STORAGE_KEY`, `AZURE_STORAGE_SAS_TOKEN`, the identity of the workload or
 * machine, and none, for what is public.
 */
export class AzureObject implements RemoteObject {
  readonly name: string;
  readonly #blob: () => Promise<BlobClient>;

  constructor(_client: unknown, url: string, name: string, environment: ProcessEnvironment) {
    let blob: Promise<BlobClient> | undefined;
    this.#blob = () => (blob ??= connect(new URL(url), environment));
    this.name = name;
  }

  async read(from: Position | undefined, signal: AbortSignal): Promise<ObjectPart> {
    const conditions = from === undefined ? {} : { conditions: { ifMatch: from.version } };
    try {
      const blob = await this.#blob();
      const offset = from?.offset ?? 0;
      // It breaks off where the connection does: the rest is asked for as everywhere.
      const options = { ...conditions, abortSignal: signal, maxRetryRequests: 0 };
      const answer = await blob.download(offset, undefined, options);
      return partOf(answer, offset);
    } catch (error) {
      if (isAbortError(error) || signal.aborted || error instanceof UsageError) throw error;
      throw this.#explained(error);
    }
  }

  #explained(error: unknown): Error {
    const { statusCode: status, code = '' } = (error ?? {}) as { statusCode?: number; code?: string };
    if (status === 412 || status === 416) return changed(this.name);
    if (status === undefined || status >= 500) return unavailable(this.name, firstLine(error));
    // 409: the account gives nothing to nobody.
    return refused(this.name, status === 409 ? 403 : status, remedyForCredentials, code);
  }
}

function partOf(answer: BlobDownloadResponseParsed, offset: number): ObjectPart {
  const { readableStreamBody: body, contentLength, etag } = answer;
  if (body === undefined) throw new Error('the answer has no content');
  return {
    body: body as Readable,
    size: contentLength === undefined ? undefined : contentLength + offset,
    version: etag,
  };
}

/** The SDK's messages go on with the whole answer. */
function firstLine(error: unknown): Error {
  return new Error(error instanceof Error ? (error.message.split('\n', 1)[0] ?? '') : String(error));
}

async function connect(url: URL, environment: ProcessEnvironment): Promise<BlobClient> {
  const { AZURE_STORAGE_CONNECTION_STRING: connection = '', AZURE_STORAGE_SAS_TOKEN: token = '' } =
    environment;
  const key = environment.AZURE_STORAGE_ACCESS_KEY ?? environment.AZURE_STORAGE_KEY ?? '';
  const account = url.hostname.split('.', 1)[0] ?? '';
  if (url.searchParams.has('sig'))
    return new BlobClient(url.href, new AnonymousCredential(), { retryOptions });
  if (connection !== '') return connectBy(connection, url, account);
  if (key !== '')
    return new BlobClient(url.href, new StorageSharedKeyCredential(account, key), { retryOptions });
  if (token !== '') {
    url.search = token;
    return new BlobClient(url.href, new AnonymousCredential(), { retryOptions });
  }
  const credential = mayBeSomebodyToAzure(environment)
    ? await azureCredential(environment)
    : new AnonymousCredential();
  return new BlobClient(url.href, credential, { retryOptions });
}

function connectBy(connection: string, url: URL, account: string): BlobClient {
  let service: BlobServiceClient;
  try {
    service = BlobServiceClient.fromConnectionString(connection, { retryOptions });
  } catch (cause) {
    throw new UsageError('AZURE_STORAGE_CONNECTION_STRING cannot be understood', {
      code: 'E_CONTEXT_ADDRESS',
      cause,
      remedy: "Copy it from the account's page, or from az storage account show-connection-string.",
    });
  }
  if (service.accountName !== account)
    throw new UsageError(
      `AZURE_STORAGE_CONNECTION_STRING is of the account ${service.accountName}, the build context of ${account}`,
      { code: 'E_CONTEXT_ADDRESS', remedy: 'Give the one of that account.' },
    );
  const [, container = '', name = ''] = /^\/([^/]+)\/(.+)$/s.exec(decodeURIComponent(url.pathname)) ?? [];
  return service.getContainerClient(container).getBlobClient(name);
}
