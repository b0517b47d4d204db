import { createPrivateKey, type KeyObject, sign } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import sshpk from 'sshpk';
import { UsageError } from '../../src/support/index.ts';

/* Messages of agents (draft-ietf-sshm-ssh-agent), keys and signatures (RFC 4253, 5656, 8332, 8709). */
const message = {
  failure: 5,
  requestIdentities: 11,
  identities: 12,
  signRequest: 13,
  signature: 14,
} as const;
const useSha256 = 2;
const useSha512 = 4;

interface Key {
  readonly kind: 'ed25519' | 'rsa' | 'ecdsa';
  readonly private: KeyObject;
  /** As the protocol writes it. */
  readonly public: Buffer;
  /** As the protocol names it: `ssh-ed25519`. */
  readonly algorithm: string;
  readonly comment: string;
}

/** An agent of our own, for keys that lie in files. Steps have things signed, and never see a key. */
export class KeyRing {
  readonly #keys: readonly Key[];

  private constructor(keys: readonly Key[]) {
    this.#keys = keys;
  }

  /** @throws UsageError `E_SSH_KEY` for what is no private key, or has a passphrase. */
  static async read(paths: readonly string[]): Promise<KeyRing> {
    return new KeyRing(await Promise.all(paths.map(readKey)));
  }

  /** Answers a request, given and answered as the protocol has it; the answer with its length. */
  answer(request: Buffer): Buffer {
    const answered =
      request[0] === message.requestIdentities
        ? this.#identities()
        : this.#sign(new Reader(request.subarray(1)));
    return framed(answered ?? Buffer.from([message.failure]));
  }

  #identities(): Buffer {
    const keys = this.#keys.flatMap((key) => [text(key.public), text(key.comment)]);
    return Buffer.concat([Buffer.from([message.identities]), number(this.#keys.length), ...keys]);
  }

  #sign(request: Reader): Buffer | undefined {
    const [blob, data, flags] = [request.text(), request.text(), request.number()];
    const key = this.#keys.find((each) => each.public.equals(blob));
    if (key === undefined) return undefined;
    return Buffer.concat([Buffer.from([message.signature]), text(signatureOf(key, data, flags))]);
  }
}

function signatureOf(key: Key, data: Buffer, flags: number): Buffer {
  switch (key.kind) {
    case 'ed25519':
      return Buffer.concat([text(key.algorithm), text(sign(null, data, key.private))]);
    case 'rsa': {
      const [name, hash] =
        (flags & useSha512) !== 0
          ? (['rsa-sha2-512', 'sha512'] as const)
          : (flags & useSha256) !== 0
            ? (['rsa-sha2-256', 'sha256'] as const)
            : (['ssh-rsa', 'sha1'] as const);
      return Buffer.concat([text(name), text(sign(hash, data, key.private))]);
    }
    case 'ecdsa': {
      const size = Number(/[0-9]+$/.exec(key.algorithm)?.[0]);
      const raw = sign(size <= 256 ? 'sha256' : size <= 384 ? 'sha384' : 'sha512', data, {
        key: key.private,
        dsaEncoding: 'ieee-p1363',
      });
      const half = raw.length / 2;
      const numbers = [raw.subarray(0, half), raw.subarray(half)].map((bytes) => text(integer(bytes)));
      return Buffer.concat([text(key.algorithm), text(Buffer.concat(numbers))]);
    }
  }
}

async function readKey(path: string): Promise<Key> {
  const wrong = (why: string, cause: unknown, remedy: string): UsageError =>
    new UsageError(`--ssh: ${path} ${why}`, { code: 'E_SSH_KEY', cause, remedy });
  let parsed: sshpk.PrivateKey;
  try {
    parsed = sshpk.parsePrivateKey(await readFile(path), 'auto');
  } catch (cause) {
    if (cause instanceof Error && cause.name === 'KeyEncryptedError')
      throw wrong('has a passphrase', cause, 'Load it into an agent, and give that: ssh-add, --ssh default.');
    throw wrong('is no private key', cause, 'Give a file as ssh-keygen makes it, or the socket of an agent.');
  }
  const kind = parsed.type;
  if (kind !== 'ed25519' && kind !== 'rsa' && kind !== 'ecdsa')
    throw wrong(`has a key of the kind ${kind}`, undefined, 'Use an Ed25519, RSA or ECDSA key.');
  const blob = parsed.toPublic().toBuffer('rfc4253');
  return {
    kind,
    private: createPrivateKey(parsed.toString('pkcs8')),
    public: blob,
    algorithm: new Reader(blob).text().toString(),
    comment: parsed.comment ?? '',
  };
}

/** Reads fields of a message. @throws RangeError when it is shorter than it says. */
class Reader {
  #rest: Buffer;

  constructor(bytes: Buffer) {
    this.#rest = bytes;
  }

  number(): number {
    const value = this.#rest.readUInt32BE(0);
    this.#rest = this.#rest.subarray(4);
    return value;
  }

  text(): Buffer {
    const length = this.number();
    if (length > this.#rest.length) throw new RangeError('a field of an agent message is cut off');
    const value = this.#rest.subarray(0, length);
    this.#rest = this.#rest.subarray(length);
    return value;
  }
}

function framed(body: Buffer): Buffer {
  return Buffer.concat([number(body.length), body]);
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function text(value: string | Buffer): Buffer {
  const bytes = typeof value === 'string' ? Buffer.from(value) : value;
  return Buffer.concat([number(bytes.length), bytes]);
}

/** A positive number as the protocol writes it: no leading zeros, but one before a set sign bit. */
function integer(bytes: Buffer): Buffer {
  let start = 0;
  while (start < bytes.length - 1 && bytes[start] === 0) start++;
  const digits = bytes.subarray(start);
  return ((digits[0] ?? 0) & 0x80) === 0 ? digits : Buffer.concat([Buffer.from([0]), digits]);
}
