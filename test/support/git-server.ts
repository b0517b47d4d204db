import { execFileSync, spawn } from 'node:child_process';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { listen, type TestServer } from './http.ts';
import { plant } from './trees.ts';

/** A server of git repositories over HTTP, by git's own http-backend. */
export interface GitServer extends TestServer {
  /** `http://127.0.0.1:port/NAME.git`. */
  url(name: string): string;
  readonly requests: readonly IncomingMessage[];
  /** Answers a request that came to another server. */
  readonly forward: (request: IncomingMessage, response: ServerResponse) => void;
}

/**
 * Serves the repositories in a directory, as `NAME.git`.
 *
 * @param login of those who may read; everybody otherwise.
 */
export async function startGitServer(directory: string, login?: string): Promise<GitServer> {
  const requests: IncomingMessage[] = [];
  const wanted = login === undefined ? undefined : `Basic ${Buffer.from(login).toString('base64')}`;
  const forward: GitServer['forward'] = (request, response) => {
    requests.push(request);
    if (wanted === undefined || request.headers.authorization === wanted)
      answer(directory, request, response);
    else response.writeHead(401, { 'www-authenticate': 'Basic realm="git"' }).end();
  };
  const listening = await listen(createServer(forward));
  return { ...listening, requests, forward, url: (name) => `http://${listening.host}/${name}.git` };
}

/** The Common Gateway Interface (RFC 3875), as far as git's backend uses it. */
function answer(directory: string, request: IncomingMessage, response: ServerResponse): void {
  const url = new URL(request.url ?? '/', 'http://localhost');
  const child = spawn('git', ['http-backend'], {
    stdio: ['pipe', 'pipe', 'ignore'],
    env: {
      PATH: process.env.PATH,
      GIT_PROJECT_ROOT: directory,
      GIT_HTTP_EXPORT_ALL: '1',
      REQUEST_METHOD: request.method,
      PATH_INFO: url.pathname,
      QUERY_STRING: url.search.slice(1),
      CONTENT_TYPE: request.headers['content-type'],
      HTTP_CONTENT_ENCODING: request.headers['content-encoding'],
      HTTP_GIT_PROTOCOL: request.headers['git-protocol'] as string | undefined,
      REMOTE_ADDR: '127.0.0.1',
      GIT_CONFIG_COUNT: '1',
      GIT_CONFIG_KEY_0: 'safe.directory',
      GIT_CONFIG_VALUE_0: '*',
    },
  });
  request.pipe(child.stdin).on('error', () => undefined);
  let head: Buffer | undefined = Buffer.alloc(0);
  child.stdout.on('data', (data: Buffer) => {
    if (head === undefined) {
      response.write(data);
      return;
    }
    head = Buffer.concat([head, data]);
    const end = head.indexOf('\r\n\r\n');
    if (end < 0) return;
    for (const line of head.toString('latin1', 0, end).split('\r\n')) {
      const [name = '', value = ''] = line.split(/: /, 2);
      if (name === 'Status') response.statusCode = Number.parseInt(value, 10);
      else response.setHeader(name, value);
    }
    response.write(head.subarray(end + 4));
    head = undefined;
  });
  child.stdout.on('end', () => response.end());
}

/** A repository of a test, and what is done to it. */
export class TestRepository {
  readonly directory: string;

  /** Makes `NAME.git`, which has its work tree beside it. */
  constructor(parent: string, name: string) {
    this.directory = join(parent, `${name}.git`);
    mkdirSync(this.directory, { recursive: true });
    this.git('init', '--quiet', '--initial-branch=main', '.');
    for (const [key, value] of [
      ['user.name', 'test'],
      ['user.email', 'test@example.com'],
      ['protocol.file.allow', 'always'],
      ['uploadpack.allowReachableSHA1InWant', 'true'],
    ] as const)
      this.git('config', key, value);
  }

  git(...args: string[]): string {
    const env = { PATH: process.env.PATH, HOME: '/nonexistent', GIT_CONFIG_NOSYSTEM: '1' };
    return execFileSync('git', args, { cwd: this.directory, encoding: 'utf8', stdio: 'pipe', env }).trim();
  }

  /** Writes files and commits everything. @returns the commit. */
  commit(files: Readonly<Record<string, string>>, message = 'change'): string {
    plant(this.directory, files);
    this.git('add', '--all');
    this.git('commit', '--quiet', '--allow-empty', '-m', message);
    return this.git('rev-parse', 'HEAD');
  }
}
