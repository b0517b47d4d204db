import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import https from 'node:https';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execFileSync } from 'node:child_process';
import type { KeyPair } from './certificates.ts';
import type { TokenServer } from './tokens.ts';

/** A running `docker-registry`, the reference implementation, on a free port of this machine. */
export interface TestRegistry extends AsyncDisposable {
  /** `127.0.0.1:port`. */
  readonly host: string;
  /** Where it keeps its files. */
  readonly storage: string;
  /** Its configuration file, for its other commands. */
  readonly configuration: string;
  /** What it was asked since the log was cleared, `METHOD path status`, in order. Everything answered so far is in it. */
  accessLog(): Promise<string[]>;
  clearLog(): Promise<void>;
  stop(): Promise<void>;
  /** Starts it again after it was stopped, on the same port and files. */
  restart(): Promise<void>;
}

export interface TestRegistryOptions {
  readonly user?: string;
  readonly password?: string;
  /** Whose tokens it wants. */
  readonly tokens?: Pick<TokenServer, 'realm' | 'service' | 'issuer' | 'certificate'>;
  /** Whether it deletes (default: true). */
  readonly deletes?: boolean;
  /** Its certificate, for HTTPS. */
  readonly tls?: KeyPair & {
    /** It wants certificates of this authority from its clients; the pair is one of them. */
    readonly clients?: { readonly authority: string; readonly pair: KeyPair };
  };
}

/** A TCP port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

export async function startRegistry(options: TestRegistryOptions = {}): Promise<TestRegistry> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-registry-'));
  const port = await freePort();
  const auth: string[] = [];
  if (options.user !== undefined) {
    await writeFile(join(directory, 'htpasswd'), `${options.user}:${bcrypt(options.password ?? '')}\n`);
    auth.push('auth:', '  htpasswd:', '    realm: test', `    path: ${join(directory, 'htpasswd')}`);
  }
  const { tokens, tls } = options;
  if (tokens !== undefined)
    auth.push(
      ...['auth:', '  token:', `    realm: ${tokens.realm}`, `    service: ${tokens.service}`],
      ...[`    issuer: ${tokens.issuer}`, `    rootcertbundle: ${tokens.certificate}`],
    );
  const certificates =
    tls === undefined
      ? []
      : [
          ...['  tls:', `    certificate: ${tls.certificate}`, `    key: ${tls.key}`],
          ...(tls.clients === undefined ? [] : ['    clientcas:', `      - ${tls.clients.authority}`]),
        ];
  const config = [
    'version: 0.1',
    'log:',
    '  accesslog:',
    '    disabled: false',
    '  level: error',
    'storage:',
    '  filesystem:',
    `    rootdirectory: ${join(directory, 'storage')}`,
    '  delete:',
    `    enabled: ${options.deletes ?? true}`,
    'http:',
    `  addr: 127.0.0.1:${port}`,
    `  secret: ${createHash('sha1').update(directory).digest('hex')}`,
    ...certificates,
    ...auth,
  ];
  await writeFile(join(directory, 'config.yml'), config.join('\n') + '\n');
  let lines: string[] = [];
  const ask = (path: string): Promise<void> => poke(port, path, tls);
  const start = async (): Promise<ChildProcess> => {
    const started = spawn('docker-registry', ['serve', join(directory, 'config.yml')], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let pending = '';
    started.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      const all = (pending + chunk).split('\n');
      pending = all.pop() ?? '';
      for (const line of all) {
        const match = /"([A-Z]+) (\S+) HTTP\/[0-9.]+" ([0-9]{3})/.exec(line);
        if (match !== null) lines.push(`${match[1] ?? ''} ${match[2] ?? ''} ${match[3] ?? ''}`);
      }
    });
    started.stderr.resume();
    await waitFor(() => ask('/v2/'), started);
    return started;
  };
  let child = await start();
  let markers = 0;
  // The log comes through a pipe, after the answers: a request of our own shows that all before it is there.
  const flush = async (): Promise<void> => {
    const marker = `/v2/?marker=${++markers}`;
    await ask(marker);
    while (!lines.some((line) => line.startsWith(`GET ${marker} `))) await sleep(5);
  };
  const stop = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;
  };
  return {
    host: `127.0.0.1:${port}`,
    storage: join(directory, 'storage'),
    configuration: join(directory, 'config.yml'),
    accessLog: async () => {
      await flush();
      return lines.filter((line) => !line.includes('?marker='));
    },
    clearLog: async () => {
      await flush();
      lines = [];
    },
    stop,
    restart: async () => {
      await stop();
      child = await start();
    },
    [Symbol.asyncDispose]: async () => {
      await stop();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** Sends a GET whose answer does not matter. */
async function poke(port: number, path: string, tls: TestRegistryOptions['tls']): Promise<void> {
  const address = { host: '127.0.0.1', port, path, agent: false };
  const own = tls?.clients?.pair;
  const request =
    tls === undefined
      ? http.get(address)
      : https.get({
          ...address,
          rejectUnauthorized: false,
          ...(own === undefined ? {} : { cert: readFileSync(own.certificate), key: readFileSync(own.key) }),
        });
  await new Promise<void>((resolve, reject) => {
    request.once('error', reject);
    request.once('response', (response) => response.resume().once('end', resolve));
  });
}

async function waitFor(ask: () => Promise<void>, child: ChildProcess): Promise<void> {
  for (let attempt = 0; attempt < 200; attempt++) {
    if (child.exitCode !== null) throw new Error(`docker-registry ended with ${child.exitCode}`);
    const answered = await ask().then(
      () => true,
      () => false,
    );
    if (answered) return;
    await sleep(25);
  }
  throw new Error('docker-registry did not start');
}

function bcrypt(password: string): string {
  const script =
    'import crypt,sys; print(crypt.crypt(sys.argv[1], crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))';
  return execFileSync('python3', ['-W', 'ignore', '-c', script, password], { encoding: 'utf8' }).trim();
}
