import { createReadStream } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { addAbortSignal, type Readable } from 'node:stream';
import type { RegistryClient } from '../../../src/registry/index.ts';
import {
  KilnError,
  type Progress,
  randomName,
  systemErrorCode,
  UsageError,
  type ProcessEnvironment,
} from '../../../src/support/index.ts';
import { GitTrees, type SshFiles } from '../../remote/index.ts';
import { type ArchiveContext, contextName, type RemoteContext } from './address.ts';
import { BrokenStream, readObject, type RemoteObject } from './remote-object.ts';
import { type ArchiveStream, unpackContext } from './unpack.ts';

/** With what contexts are fetched, and where to. */
export interface ContextPlace {
  readonly client: Pick<RegistryClient, 'readWebFile' | 'trustOf'>;
  /** A directory that outlives them. */
  readonly scratch: string;
  readonly progress: Progress;
  readonly signal: AbortSignal;
  readonly environment: ProcessEnvironment;
}

/** How the server of a repository is reached. */
export interface RepositoryAccess {
  /** Any certificate is accepted. */
  readonly skipTls?: boolean;
  readonly ssh?: SshFiles;
}

/** How often an object is begun anew whose server cannot say what the rest is of what broke off. */
const maximumBeginnings = 3;

/**
 * Brings a context here.
 *
 * @param where what asks for it, for messages: `--context`, or a Dockerfile and line.
 * @param access how a repository's server is reached.
 * @returns the directory with its files, which nobody else changes.
 * @throws BuildError `E_CONTEXT_…`, `E_GIT_…`, `E_TAR_…`, `E_ARCHIVE_…`; EnvironmentError `E_NO_SPACE`; UsageError `E_CONTEXT_NOT_FOUND`.
 */
export async function fetchContext(
  address: RemoteContext,
  place: ContextPlace,
  where: string,
  access: RepositoryAccess = {},
): Promise<string> {
  const name = contextName(address);
  if (address.kind === 'git') {
    const { client, scratch, signal, progress } = place;
    const trustOf: RegistryClient['trustOf'] = (host) => ({
      ...client.trustOf(host),
      ...(access.skipTls === true ? { skipVerify: true } : {}),
    });
    const trees = new GitTrees(client, scratch, { trustOf, ssh: access.ssh, largeFiles: true });
    const revision = await trees.identify(address.source, where, signal);
    progress.info(`the build context ${name} is commit ${revision.tagged ?? revision.object}`);
    return trees.checkOut(address.source, revision, where, signal);
  }
  const directory = join(place.scratch, randomName('context-'));
  for (let beginnings = 1; ; beginnings++) {
    try {
      await unpackContext(await openArchive(address, name, place), directory, name, place.signal);
      return directory;
    } catch (error) {
      if (!(error instanceof BrokenStream) || beginnings >= maximumBeginnings) throw error;
      await rm(directory, { recursive: true, force: true });
    }
  }
}

async function openArchive(
  address: ArchiveContext,
  name: string,
  place: ContextPlace,
): Promise<ArchiveStream> {
  switch (address.kind) {
    case 'file':
      return openFile(address.path);
    case 'standard-input':
      if (process.stdin.isTTY)
        throw new UsageError('standard input is a terminal, not a build context', {
          code: 'E_CONTEXT_NOT_FOUND',
          remedy:
            'Send an archive there: tar -c . | executor --context tar://stdin. In containers: docker run -i.',
        });
      // Who writes there may wait for something for ever.
      return streamOf(addAbortSignal(place.signal, process.stdin));
    default:
      return readObject(await openObject(address, name, place), place.signal);
  }
}

/** Each kind's library is loaded only when it is used: some take long. */
async function openObject(
  address: Exclude<ArchiveContext, { readonly kind: 'file' | 'standard-input' }>,
  name: string,
  { client, environment }: ContextPlace,
): Promise<RemoteObject> {
  switch (address.kind) {
    case 'web': {
      const { WebObject } = await import('./web-object.ts');
      return new WebObject(client, address.url, name);
    }
    case 's3': {
      const { S3Object } = await import('./s3-object.ts');
      return new S3Object(client, address, name, environment);
    }
    case 'google': {
      const { GoogleObject } = await import('./google-object.ts');
      return new GoogleObject(client, address, name, environment);
    }
    case 'azure': {
      const { AzureObject } = await import('./azure-object.ts');
      return new AzureObject(client, address.url, name, environment);
    }
  }
}

async function openFile(path: string): Promise<ArchiveStream> {
  try {
    await using file = await open(path);
    const stat = await file.stat();
    if (stat.isDirectory())
      throw new UsageError(`the build context ${path} is a directory, not an archive`, {
        code: 'E_CONTEXT_NOT_FOUND',
        remedy: `Write --context dir://${path}.`,
      });
    const stream = createReadStream(path, { highWaterMark: 1 << 16 });
    return streamOf(stream, stat.isFile() ? stat.size : undefined);
  } catch (cause) {
    if (cause instanceof KilnError || systemErrorCode(cause) === undefined) throw cause;
    throw new UsageError(`the build context ${path} cannot be opened`, {
      code: 'E_CONTEXT_NOT_FOUND',
      cause,
      remedy: 'Check --context.',
    });
  }
}

function streamOf(stream: Readable, size?: number): ArchiveStream {
  return { bytes: stream, source: stream, size };
}
