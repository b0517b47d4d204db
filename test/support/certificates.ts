import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const execute = promisify(execFile);

/** Files in PEM form. */
export interface KeyPair {
  readonly certificate: string;
  readonly key: string;
}

/** A certificate authority of a test, which nobody trusts but who is told to. */
export class TestAuthority {
  readonly certificate: string;
  readonly #key: string;
  readonly #directory: string;

  private constructor(directory: string, { certificate, key }: KeyPair) {
    this.#directory = directory;
    this.certificate = certificate;
    this.#key = key;
  }

  /** @param directory where all files are put. */
  static async create(directory: string, name = 'authority'): Promise<TestAuthority> {
    const pair = filesOf(directory, name);
    await openssl([
      ...['req', '-x509', ...newKey(pair.key), '-out', pair.certificate],
      ...['-days', '2', '-subj', `/CN=${name}`, '-addext', 'basicConstraints=critical,CA:TRUE'],
    ]);
    return new TestAuthority(directory, pair);
  }

  /** A certificate for servers on 127.0.0.1 and localhost, or for a client. */
  async issue(name: string): Promise<KeyPair> {
    const pair = filesOf(this.#directory, name);
    const request = join(this.#directory, `${name}.csr`);
    const extensions = join(this.#directory, `${name}.ext`);
    await writeFile(extensions, 'subjectAltName=IP:127.0.0.1,IP:0.0.0.0,DNS:localhost\n');
    await openssl(['req', ...newKey(pair.key), '-out', request, '-subj', `/CN=${name}`]);
    await openssl([
      ...['x509', '-req', '-in', request, '-out', pair.certificate, '-days', '2', '-extfile', extensions],
      ...['-CA', this.certificate, '-CAkey', this.#key, '-CAcreateserial'],
    ]);
    return pair;
  }
}

function filesOf(directory: string, name: string): KeyPair {
  return { certificate: join(directory, `${name}.crt`), key: join(directory, `${name}.key`) };
}

/** RSA, which docker-registry's token checks understand. */
function newKey(path: string): string[] {
  return ['-newkey', 'rsa:2048', '-nodes', '-keyout', path];
}

async function openssl(args: readonly string[]): Promise<void> {
  await execute('openssl', args);
}
