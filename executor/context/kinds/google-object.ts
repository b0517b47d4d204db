import {
  googleToken,
  mayBeSomebodyToGoogle,
  type RegistryClient,
  type WebAnswer,
} from '../../../src/registry/index.ts';
import { isAbortError, type ProcessEnvironment } from '../../../src/support/index.ts';
import {
  changed,
  type ObjectPart,
  type Position,
  refused,
  type RemoteObject,
  unavailable,
} from './remote-object.ts';
import { partOffset, sizeOf } from './web-object.ts';

const remedyForCredentials =
  'Check the credentials (GOOGLE_APPLICATION_CREDENTIALS, workload identity), and that they may do storage.objects.get on it.';

/**
 * An object of Google Cloud Storage, by its JSON API and Application Default Credentials, or without any for what is public.
 * `STORAGE_EMULATOR_HOST` names another server, which gets no credentials, as with Google's own libraries.
 */
export class GoogleObject implements RemoteObject {
  readonly name: string;
  readonly #client: Pick<RegistryClient, 'readWebFile'>;
  readonly #environment: ProcessEnvironment;
  readonly #emulator: string | undefined;
  readonly #path: string;
  #identity: Promise<string | undefined> | undefined;

  constructor(
    client: Pick<RegistryClient, 'readWebFile'>,
    { bucket, key }: { readonly bucket: string; readonly key: string },
    name: string,
    environment: ProcessEnvironment,
  ) {
    this.#client = client;
    this.#environment = environment;
    this.#path = `/storage/v1/b/${encodeURIComponent(bucket)}/o/${encodeURIComponent(key)}`;
    this.name = name;
    const { STORAGE_EMULATOR_HOST: emulator = '' } = environment;
    this.#emulator = emulator === '' ? undefined : emulator;
  }

  async read(from: Position | undefined, signal: AbortSignal): Promise<ObjectPart> {
    const answer = await this.#ask(from, signal);
    const { status } = answer;
    const version = answer.header('x-goog-generation');
    if (status === (from === undefined ? 200 : 206)) {
      const range = answer.header('content-range');
      if (from === undefined)
        return { body: answer.body, size: sizeOf(answer.header('content-length')), version };
      if (partOffset(range) === from.offset)
        return { body: answer.body, size: sizeOf(/[0-9]+$/.exec(range ?? '')?.[0]), version: from.version };
    }
    const words = await wordsOf(answer);
    // A generation that is gone is not found, unless the bucket keeps old ones.
    if (from !== undefined && [200, 404, 412, 416].includes(status)) throw changed(this.name);
    throw refused(this.name, status, remedyForCredentials, words);
  }

  async #ask(from: Position | undefined, signal: AbortSignal): Promise<WebAnswer> {
    const url = new URL(this.#path, this.#origin());
    url.searchParams.set('alt', 'media');
    if (from !== undefined) url.searchParams.set('generation', from.version);
    const headers = {
      // As it is stored: what is stored compressed would be sent without its compression otherwise, and whole.
      'accept-encoding': 'gzip',
      ...(from === undefined ? {} : { range: `bytes=${from.offset}-` }),
    };
    try {
      // A new token for every attempt: libraries keep theirs until they expire.
      const token = await this.#token();
      const authorization = token === undefined ? undefined : `Bearer ${token}`;
      return await this.#client.readWebFile({ url, headers, authorization, signal });
    } catch (error) {
      if (isAbortError(error) || signal.aborted) throw error;
      throw unavailable(this.name, error);
    }
  }

  #origin(): string {
    if (this.#emulator === undefined) return 'https://storage.googleapis.com';
    return /^https?:\/\//.test(this.#emulator) ? this.#emulator : `http://${this.#emulator}`;
  }

  #token(): Promise<string | undefined> {
    if (this.#emulator !== undefined || !mayBeSomebodyToGoogle(this.#environment))
      return Promise.resolve(undefined);
    return (this.#identity ??= googleToken(this.#environment).then(({ token }) => token));
  }
}

/** The reason that Google gives, in its error document. */
async function wordsOf(answer: WebAnswer): Promise<string> {
  let text = '';
  for await (const chunk of answer.body) if (text.length < 64 * 1024) text += String(chunk);
  try {
    const { error } = JSON.parse(text) as { error?: { message?: unknown } };
    return typeof error?.message === 'string' ? error.message.slice(0, 200) : '';
  } catch {
    return '';
  }
}
