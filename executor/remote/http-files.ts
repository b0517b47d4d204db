import { createHash, randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { chmod, mkdir, readFile, rename, rm, statfs, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { isDigest, type Digest } from '../../src/oci/index.ts';
import type { WebAnswer, WebRequest } from '../../src/registry/index.ts';
import {
  BuildError,
  EnvironmentError,
  hideCredentials,
  isAbortError,
  KilnError,
  messageOf,
  systemErrorCode,
} from '../../src/support/index.ts';
import { type HttpSource } from './addresses.ts';

/** What is known of a file of a web server. */
export interface HttpFile {
  readonly digest: Digest;
  /** Where it lies, when it had to be downloaded to be known. */
  readonly path: string | undefined;
}

/** What a server said of a file when it was downloaded last. */
interface Remembered {
  readonly digest: Digest;
  readonly etag: string | undefined;
  readonly lastModified: string | undefined;
}

export interface HttpFilesOptions {
  readonly get: (request: WebRequest) => Promise<WebAnswer>;
  /** Where downloads are put. */
  readonly scratch: string;
  /** Where it is remembered what servers said; undefined: nowhere. */
  readonly memory: string | undefined;
}

/** A download that breaks off is begun anew this often. */
const maximumBreaks = 3;
/** What is free on the disk is not taken to the last byte. */
const spaceShare = 0.9;

/**
 * Files of web servers. What a server said of a file's version (ETag, Last-Modified) is remembered, so that an unchanged file
 * is known without being downloaded (RFC 9110, 13). Addresses may hold credentials, so only their hashes are remembered.
 */
export class HttpFiles {
  readonly #options: HttpFilesOptions;

  constructor(options: HttpFilesOptions) {
    this.#options = options;
  }

  /** Finds out what a file is now. With a checksum nobody is asked. @throws BuildError `E_ADD_…`. */
  async identify(source: HttpSource, where: string, signal?: AbortSignal): Promise<HttpFile> {
    if (source.checksum !== undefined) return { digest: source.checksum as Digest, path: undefined };
    const known = await this.#recall(source);
    const conditions = {
      ...(known?.etag === undefined ? {} : { 'if-none-match': known.etag }),
      ...(known?.lastModified === undefined ? {} : { 'if-modified-since': known.lastModified }),
    };
    return this.#download(source, where, { known, conditions, signal });
  }

  /** A file's content. @throws BuildError `E_ADD_CHECKSUM` when it is not what it was identified as. */
  async fetch(source: HttpSource, digest: Digest, where: string, signal?: AbortSignal): Promise<string> {
    const file = await this.#download(source, where, { known: undefined, conditions: {}, signal });
    if (file.path === undefined) throw new Error('a file was not downloaded');
    if (file.digest === digest) return file.path;
    await rm(dirname(file.path), { recursive: true, force: true });
    throw new BuildError(`${hideCredentials(source.url)} has the digest ${file.digest}, not ${digest}`, {
      code: 'E_ADD_CHECKSUM',
      where,
      subject: source.checksum,
      remedy:
        source.checksum === undefined
          ? 'It changed while it was built; build again.'
          : 'Check that the file is the right one, then write its digest into --checksum.',
    });
  }

  async #download(
    source: HttpSource,
    where: string,
    how: {
      readonly known: Remembered | undefined;
      readonly conditions: Readonly<Record<string, string>>;
      readonly signal: AbortSignal | undefined;
    },
  ): Promise<HttpFile> {
    for (let breaks = 0; ; breaks++) {
      const answer = await this.#ask(source, where, how.conditions, how.signal);
      if (how.known !== undefined && isUnchanged(answer, how.known)) {
        await answer.body.dump();
        return { digest: how.known.digest, path: undefined };
      }
      if (answer.status !== 200) throw await refused(source, answer, where);
      try {
        return await this.#save(source, answer, how.signal);
      } catch (error) {
        if (isAbortError(error) || error instanceof KilnError) throw error;
        const code = systemErrorCode(error);
        if (code === 'ENOSPC' || code === 'EDQUOT') throw noSpace(source, this.#options.scratch, error);
        if (breaks >= maximumBreaks) throw failed(source, error, where);
      }
    }
  }

  async #ask(
    { url }: HttpSource,
    where: string,
    conditions: Readonly<Record<string, string>>,
    signal: AbortSignal | undefined,
  ): Promise<WebAnswer> {
    // What is wanted is the file as it is, not a compressed form of it.
    const headers = { accept: '*/*', 'accept-encoding': 'identity', ...conditions };
    try {
      return await this.#options.get({ url: new URL(url), headers, signal });
    } catch (error) {
      if (isAbortError(error)) throw error;
      throw failed({ url }, error, where);
    }
  }

  async #save(source: HttpSource, answer: WebAnswer, signal?: AbortSignal): Promise<HttpFile> {
    const { scratch } = this.#options;
    const directory = join(scratch, `add-${randomUUID()}`);
    await mkdir(directory, { mode: 0o700 });
    const path = join(directory, 'file');
    const { bavail, bsize } = await statfs(scratch);
    const limit = bavail * bsize * spaceShare;
    if (Number(answer.header('content-length') ?? 0) > limit) {
      await answer.body.dump();
      throw noSpace(source, scratch);
    }
    const hash = createHash('sha256');
    let size = 0;
    async function* counted(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
      for await (const chunk of chunks) {
        hash.update(chunk);
        size += chunk.length;
        if (size > limit) throw noSpace(source, scratch);
        yield chunk;
      }
    }
    try {
      await pipeline(
        answer.body,
        counted,
        createWriteStream(path, { flags: 'wx', mode: 0o600 }),
        signal === undefined ? {} : { signal },
      );
    } catch (error) {
      await rm(directory, { recursive: true, force: true });
      throw error;
    }
    const digest = `sha256:${hash.digest('hex')}` as Digest;
    const lastModified = answer.header('last-modified');
    await chmod(path, 0o600);
    const modified = new Date(lastModified ?? 0);
    const time = Number.isNaN(modified.getTime()) ? new Date(0) : modified;
    await utimes(path, time, time);
    await this.#remember(source, { digest, etag: answer.header('etag'), lastModified });
    return { digest, path };
  }

  #memoryFile({ url }: HttpSource): string | undefined {
    const { memory } = this.#options;
    if (memory === undefined) return undefined;
    return join(memory, `${createHash('sha256').update(url).digest('hex')}.json`);
  }

  async #recall(source: HttpSource): Promise<Remembered | undefined> {
    const file = this.#memoryFile(source);
    if (file === undefined) return undefined;
    try {
      return decode(await readFile(file, 'utf8'));
    } catch {
      // What cannot be read is as good as forgotten: the file is downloaded.
      return undefined;
    }
  }

  /** Only what makes the next build faster: a failure is none of this one's. */
  async #remember(source: HttpSource, remembered: Remembered): Promise<void> {
    const file = this.#memoryFile(source);
    if (file === undefined || (remembered.etag === undefined && remembered.lastModified === undefined))
      return;
    try {
      await mkdir(dirname(file), { recursive: true });
      const temporary = `${file}.${randomUUID()}`;
      await writeFile(temporary, JSON.stringify(remembered), { mode: 0o600 });
      await rename(temporary, file);
    } catch (error) {
      if (systemErrorCode(error) === undefined) throw error;
    }
  }
}

function decode(text: string): Remembered | undefined {
  const value = JSON.parse(text) as Partial<Record<keyof Remembered, unknown>>;
  const { digest, etag, lastModified } = value;
  const header = (field: unknown): string | undefined =>
    typeof field === 'string' && /^[\x20-\x7e]{1,1024}$/.test(field) ? field : undefined;
  return isDigest(digest) ? { digest, etag: header(etag), lastModified: header(lastModified) } : undefined;
}

/** Some servers do not know conditions, but give the same ETag. */
function isUnchanged(answer: WebAnswer, { etag }: Remembered): boolean {
  if (answer.status === 304) return true;
  const now = answer.header('etag');
  return answer.status === 200 && etag !== undefined && now !== undefined && strong(now) === strong(etag);
}

function strong(etag: string): string {
  return etag.replace(/^W\//, '');
}

async function refused(source: HttpSource, answer: WebAnswer, where: string): Promise<BuildError> {
  const { status } = answer;
  await answer.body.dump();
  return new BuildError(`${hideCredentials(source.url)}: the server answered ${status}`, {
    code: 'E_ADD_REFUSED',
    where,
    subject: source.url,
    remedy:
      status === 401 || status === 403
        ? 'Give user and password in the address, or fetch the file in a RUN with a secret.'
        : status === 404 || status === 410
          ? 'Check the address.'
          : 'Try again later.',
  });
}

function failed({ url }: Pick<HttpSource, 'url'>, error: unknown, where: string): BuildError {
  const remedy = error instanceof KilnError ? error.remedy : undefined;
  const cause = error instanceof KilnError && error.cause !== undefined ? error.cause : error;
  return new BuildError(`${hideCredentials(url)} cannot be fetched: ${messageOf(error)}`, {
    code: 'E_ADD_UNAVAILABLE',
    where,
    cause,
    remedy: remedy ?? 'Check the address, the network and the proxy.',
  });
}

function noSpace({ url }: HttpSource, directory: string, cause?: unknown): EnvironmentError {
  return new EnvironmentError(`there is no space for ${hideCredentials(url)} in ${directory}`, {
    code: 'E_NO_SPACE',
    cause,
    remedy: 'Free some space there, or use another scratch directory.',
  });
}
