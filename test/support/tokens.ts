import { createPrivateKey, randomUUID, sign } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import type { KeyPair } from './certificates.ts';
import { bodyOf, serve, type TestServer } from './http.ts';

/** A token server (distribution's token specification) whose tokens a real registry checks. */
export interface TokenServer extends TestServer {
  readonly realm: string;
  readonly service: string;
  readonly issuer: string;
  /** File of the certificate that the registry checks tokens with. */
  readonly certificate: string;
  /** Who was given a token for what, in order: `user repository:x:pull`. */
  readonly issued: readonly string[];
  /** How long tokens last from now on. The registry allows a minute more, for clocks that differ. */
  lifetimeSeconds: number;
  /** Answers every request so, instead of with a token. */
  refuseWith: number | undefined;
}

export interface TokenServerOptions {
  readonly key: KeyPair;
  /** Whose password is right. The refresh token of a user is `refresh-<user>`. */
  readonly users: Readonly<Record<string, string>>;
  /** What a user (undefined: nobody) may do with a repository. */
  readonly allow: (user: string | undefined, repository: string, action: string) => boolean;
}

export async function startTokenServer(options: TokenServerOptions): Promise<TokenServer> {
  const key = createPrivateKey(await readFile(options.key.key));
  const chain = (await readFile(options.key.certificate, 'utf8')).replace(/-----[^-]+-----|\s/g, '');
  const issued: string[] = [];
  const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const server = await serve((request, response) => {
    void (async () => {
      const form = new URLSearchParams(
        request.method === 'POST'
          ? (await bodyOf(request)).toString('utf8')
          : new URL(request.url ?? '', 'http://x').search,
      );
      const user = userOf(request, form, options.users);
      if (state.refuseWith !== undefined || user === 'wrong') {
        response.writeHead(state.refuseWith ?? 401, { 'content-type': 'application/json' });
        response.end(JSON.stringify({ errors: [{ code: 'UNAUTHORIZED', message: 'not you' }] }));
        return;
      }
      const scopes = form.getAll('scope').flatMap((scope) => scope.split(' '));
      const now = Math.floor(Date.now() / 1000);
      const claims = {
        iss: state.issuer,
        sub: user ?? '',
        aud: state.service,
        exp: now + state.lifetimeSeconds,
        nbf: now - 10,
        iat: now,
        jti: randomUUID(),
        access: scopes.map((scope) => {
          const [type, name = '', actions = ''] = scope.split(':');
          return {
            type,
            name,
            actions: actions.split(',').filter((action) => options.allow(user, name, action)),
          };
        }),
      };
      issued.push(`${user ?? '-'} ${scopes.join(' ')}`);
      const signed = `${encode({ typ: 'JWT', alg: 'RS256', x5c: [chain] })}.${encode(claims)}`;
      const signature = sign('sha256', Buffer.from(signed), key).toString('base64url');
      const token = `${signed}.${signature}`;
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ token, access_token: token, expires_in: state.lifetimeSeconds }));
    })();
  });
  const state = {
    ...server,
    realm: `http://${server.host}/token`,
    service: 'test-registry',
    issuer: 'test-issuer',
    certificate: options.key.certificate,
    issued,
    lifetimeSeconds: 300,
    refuseWith: undefined as number | undefined,
  };
  return state;
}

/** The user that a request proves to be from, undefined for nobody, `wrong` for a wrong proof. */
function userOf(
  request: IncomingMessage,
  form: URLSearchParams,
  users: Readonly<Record<string, string>>,
): string | undefined {
  if (request.method === 'POST') {
    const name = /^refresh-(.+)$/.exec(form.get('refresh_token') ?? '')?.[1];
    return name !== undefined && name in users ? name : 'wrong';
  }
  const encoded = /^Basic (.+)$/.exec(request.headers.authorization ?? '')?.[1];
  if (encoded === undefined) return undefined;
  const [name = '', ...password] = Buffer.from(encoded, 'base64').toString('utf8').split(':');
  return users[name] === password.join(':') ? name : 'wrong';
}
