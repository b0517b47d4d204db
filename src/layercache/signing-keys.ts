import { spawn } from 'node:child_process';
import { createPrivateKey, createPublicKey, type KeyObject, sign } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import PQueue from 'p-queue';
import { KilnError, messageOf, UsageError } from '../support/index.ts';
import {
  type CacheTrust,
  type EntrySignature,
  type EntrySigner,
  keyIDOf,
  type SignedEntry,
  signedBytes,
  TrustedKeys,
} from './signature.ts';

/** Which keys a user named. */
export interface TrustFlags {
  /** `FILE`, `env:NAME` or `cmd:COMMAND`; undefined: nothing is signed. */
  readonly signKey: string | undefined;
  /** `FILE` or `env:NAME`; with none, signatures are not looked at. */
  readonly verifyKeys: readonly string[];
}

const howToMake = 'Make a key with: openssl genpkey -algorithm ed25519 -out cache.key';
const howToExport = 'Export it with: openssl pkey -in cache.key -pubout -out cache.pub';
/** Signatures of ed25519 have this many bytes. */
const signatureSize = 64;
/** Programs that sign at the same time: services that keep keys limit how often they are asked. */
const programsAtOnce = 4;
const programTimeout = 60_000;
const longestOutput = 16_384;

/**
 * Reads the keys that the flags name.
 *
 * @throws UsageError for a key that cannot be read, or is of another kind.
 */
export async function openTrust({ signKey, verifyKeys }: TrustFlags): Promise<CacheTrust> {
  const keys = await Promise.all(verifyKeys.map(readVerifyKeys));
  const trusted = verifyKeys.length === 0 ? undefined : new TrustedKeys(keys.flat());
  return { trusted, signer: signKey === undefined ? undefined : await openSigner(signKey, trusted) };
}

async function openSigner(given: string, trusted: TrustedKeys | undefined): Promise<EntrySigner> {
  if (given.startsWith('cmd:')) return new ProgramSigner(given.slice('cmd:'.length), trusted);
  const text = await readKey(given, '--cache-sign-key');
  let key: KeyObject;
  try {
    key = createPrivateKey(text);
  } catch (cause) {
    throw new UsageError(`--cache-sign-key ${given} is no private key in PEM`, { cause, remedy: howToMake });
  }
  requireEd25519(key, `--cache-sign-key ${given}`, howToMake);
  const keyID = keyIDOf(createPublicKey(key));
  return {
    keyID,
    runsProgram: false,
    sign: (entry) => Promise.resolve({ keyID, value: sign(null, signedBytes(entry), key) }),
  };
}

/** A program, for instance of a service that keeps the key, is given the bytes on standard input and writes the signature. */
class ProgramSigner implements EntrySigner {
  readonly keyID = undefined;
  readonly runsProgram = true;
  readonly #command: string;
  readonly #trusted: TrustedKeys | undefined;
  readonly #running = new PQueue({ concurrency: programsAtOnce });

  /** @param trusted where given, the signature must be of one of them, whose id then is known. */
  constructor(command: string, trusted: TrustedKeys | undefined) {
    this.#command = command;
    this.#trusted = trusted;
  }

  async sign(entry: SignedEntry, signal?: AbortSignal): Promise<EntrySignature> {
    const output = await this.#running.add(() => runProgram(this.#command, signedBytes(entry), signal));
    const signature = { keyID: undefined, value: readSignature(output) };
    if (this.#trusted === undefined) return signature;
    const keyID = this.#trusted.signerOf(entry, signature);
    if (keyID === undefined)
      throw signingFailed('what it wrote is a signature of no key that is given with --cache-verify-key');
    return { ...signature, keyID };
  }
}

/** The 64 bytes of a signature, or their base64, also as HashiCorp Vault writes it: `vault:v1:…`. */
function readSignature(output: Buffer): Buffer {
  if (output.length === signatureSize) return output;
  const text = output.toString('latin1').trim();
  const value = Buffer.from(text.replace(/^vault:v[0-9]+:/, ''), 'base64');
  if (value.length === signatureSize) return value;
  throw signingFailed('what it wrote is neither the 64 bytes of a signature nor their base64');
}

async function runProgram(command: string, input: Buffer, signal?: AbortSignal): Promise<Buffer> {
  const deadline = AbortSignal.timeout(programTimeout);
  const child = spawn('/bin/sh', ['-c', command], {
    stdio: ['pipe', 'pipe', 'pipe'],
    signal: signal === undefined ? deadline : AbortSignal.any([signal, deadline]),
    killSignal: 'SIGKILL',
  });
  const read = async (stream: AsyncIterable<Buffer>): Promise<Buffer> => {
    const chunks: Buffer[] = [];
    let size = 0;
    for await (const chunk of stream) if ((size += chunk.length) <= longestOutput) chunks.push(chunk);
    return Buffer.concat(chunks);
  };
  // A program that does not read what it is given may still sign it.
  child.stdin.once('error', () => undefined).end(input);
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  let results: [Buffer, Buffer, number | null];
  try {
    results = await Promise.all([read(child.stdout), read(child.stderr), ended]);
  } catch (error) {
    signal?.throwIfAborted();
    throw signingFailed(deadline.aborted ? `it took more than ${programTimeout / 1000} s` : messageOf(error));
  }
  const [output, errors, code] = results;
  if (code === 0) return output;
  const [line = ''] = errors.toString('utf8').trim().split('\n', 1);
  throw signingFailed(`it ended with ${code === null ? 'a signal' : `exit code ${code}`}: ${line}`);
}

function signingFailed(why: string): KilnError {
  return new KilnError(`the command of --cache-sign-key did not sign: ${why}`, {
    code: 'E_CACHE_SIGNING',
    category: 'environment',
  });
}

/** The public keys of a file, one or several. */
export async function readVerifyKeys(given: string): Promise<KeyObject[]> {
  const text = await readKey(given, '--cache-verify-key');
  if (text.includes('PRIVATE KEY'))
    throw new UsageError(`--cache-verify-key ${given} is a private key`, { remedy: howToExport });
  const blocks = text.match(/-----BEGIN PUBLIC KEY-----[^-]*-----END PUBLIC KEY-----/g) ?? [];
  if (blocks.length === 0)
    throw new UsageError(`--cache-verify-key ${given} has no public key in PEM`, { remedy: howToExport });
  return blocks.map((block) => {
    let key: KeyObject;
    try {
      key = createPublicKey(block);
    } catch (cause) {
      throw new UsageError(`--cache-verify-key ${given} cannot be understood`, {
        cause,
        remedy: howToExport,
      });
    }
    return requireEd25519(key, `--cache-verify-key ${given}`, howToExport);
  });
}

function requireEd25519(key: KeyObject, what: string, remedy: string): KeyObject {
  if (key.asymmetricKeyType === 'ed25519') return key;
  throw new UsageError(`${what} is of the kind ${String(key.asymmetricKeyType)}, not ed25519`, { remedy });
}

async function readKey(given: string, flag: string): Promise<string> {
  if (given.startsWith('env:')) {
    const value = process.env[given.slice('env:'.length)];
    if (value !== undefined) return value;
    throw new UsageError(`${flag} ${given}: there is no such variable`, {});
  }
  try {
    return await readFile(given, 'utf8');
  } catch (cause) {
    throw new UsageError(`${flag} ${given} cannot be read`, { cause });
  }
}
