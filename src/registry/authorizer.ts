import { KilnError, SingleFlight } from '../support/index.ts';
import { type Challenge, parseChallenges } from './challenge.ts';
import type { Credential, CredentialStore } from './credentials.ts';
import { errorFrom, type HttpRequest, type HttpResponse, readBody, type Transport } from './transport.ts';

/** What a request is allowed to do, in the words of the token specification. */
export interface Scope {
  readonly registry: string;
  readonly repository: string;
  readonly actions: 'pull' | 'pull,push' | 'pull,push,delete';
  /** Repositories that blobs are mounted from. */
  readonly alsoPull?: readonly string[];
}

interface Token {
  readonly header: string;
  readonly expires: number;
}

/**
 * Answers a registry's challenges: Basic, and Bearer with a token server (distribution's token specification).
 * Tokens are kept until shortly before they expire.
 */
export class Authorizer {
  readonly #transport: Transport;
  readonly #credentials: CredentialStore;
  readonly #tokens = new Map<string, Token>();
  readonly #fetching = new SingleFlight<string, Token>();

  constructor(transport: Transport, credentials: CredentialStore) {
    this.#transport = transport;
    this.#credentials = credentials;
  }

  /** Sends a request with what is known to work, and once more after a challenge. */
  async send(request: HttpRequest, scope: Scope): Promise<HttpResponse> {
    const key = scopeKey(scope);
    const known = this.#tokens.get(key);
    const valid = known !== undefined && known.expires > Date.now() ? known : undefined;
    const response = await this.#transport.send(withHeader(request, valid));
    if (response.status !== 401) return response;
    const challenges = parseChallenges([response.headers['www-authenticate'] ?? []].flat());
    if (challenges.length === 0) return response;
    if (valid !== undefined) this.#tokens.delete(key);
    const token = await this.#fetching.run(key, () => this.#answer(challenges, scope, request));
    if (token.header === '' || token.header === valid?.header) return response;
    this.#tokens.set(key, token);
    await response.body.dump();
    return this.#transport.send(withHeader(request, token));
  }

  async #answer(challenges: readonly Challenge[], scope: Scope, request: HttpRequest): Promise<Token> {
    const credential = await this.#credentials.find(scope.registry, scope.repository);
    const bearer = challenges.find(({ scheme }) => scheme === 'bearer');
    if (bearer !== undefined) return this.#fetchToken(bearer, scope, credential, request);
    const basic = challenges.some(({ scheme }) => scheme === 'basic');
    if (basic && credential?.kind === 'basic') return { header: basicHeader(credential), expires: Infinity };
    return { header: '', expires: 0 };
  }

  async #fetchToken(
    bearer: Challenge,
    scope: Scope,
    credential: Credential | undefined,
    request: HttpRequest,
  ): Promise<Token> {
    const realm = bearer.parameters.get('realm');
    if (realm === undefined || !URL.canParse(realm))
      throw badChallenge(scope, 'its challenge names no token server');
    const url = new URL(realm);
    if (url.protocol !== 'https:' && !(url.protocol === 'http:' && request.url.protocol === 'http:'))
      throw badChallenge(scope, 'its token server would be sent credentials without encryption');
    const service = bearer.parameters.get('service');
    const scopes = [
      `repository:${scope.repository}:${scope.actions}`,
      ...(scope.alsoPull ?? []).map((name) => `repository:${name}:pull`),
    ];
    const response = await this.#transport.send(
      credential?.kind === 'identity'
        ? tokenPost(url, service, scopes, credential.token, request.signal)
        : tokenGet(url, service, scopes, credential, request.signal),
    );
    if (response.status !== 200)
      throw await errorFrom(
        response,
        `GET ${url.origin}${url.pathname} (token for ${scope.registry}/${scope.repository})`,
      );
    const body = await readBody(response, 1 << 20, 'the token');
    return parseToken(body, scope);
  }
}

function parseToken(body: Buffer, scope: Scope): Token {
  let answer: { token?: unknown; access_token?: unknown; expires_in?: unknown };
  try {
    answer = JSON.parse(body.toString('utf8')) as typeof answer;
  } catch {
    // The text may hold a token, so it is not quoted.
    throw badChallenge(scope, 'its token server did not answer with JSON');
  }
  const token = answer.token ?? answer.access_token;
  if (typeof token !== 'string' || token === '' || /[\r\n]/.test(token))
    throw badChallenge(scope, 'its token server gave no token');
  const seconds = typeof answer.expires_in === 'number' ? answer.expires_in : 60;
  return { header: `Bearer ${token}`, expires: Date.now() + Math.max(5, seconds * 0.8) * 1000 };
}

function badChallenge(scope: Scope, why: string): KilnError {
  return new KilnError(`cannot log in to ${scope.registry}: ${why}`, {
    code: 'E_REGISTRY_UNAUTHORIZED',
    category: 'registry',
  });
}

function tokenGet(
  url: URL,
  service: string | undefined,
  scopes: readonly string[],
  credential: (Credential & { kind: 'basic' }) | undefined,
  signal?: AbortSignal,
): HttpRequest {
  const query = new URL(url);
  if (service !== undefined) query.searchParams.set('service', service);
  for (const scope of scopes) query.searchParams.append('scope', scope);
  const headers = credential === undefined ? {} : { authorization: basicHeader(credential) };
  return { method: 'GET', url: query, headers, signal };
}

function tokenPost(
  url: URL,
  service: string | undefined,
  scopes: readonly string[],
  token: string,
  signal?: AbortSignal,
): HttpRequest {
  const form = new URLSearchParams({
    grant_type: 'refresh_token',
    client_id: 'kiln',
    refresh_token: token,
    scope: scopes.join(' '),
  });
  if (service !== undefined) form.set('service', service);
  const body = Buffer.from(form.toString());
  return {
    method: 'POST',
    url,
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body: () => Promise.resolve(body),
    signal,
  };
}

function basicHeader(credential: { username: string; password: string }): string {
  return `Basic ${Buffer.from(`${credential.username}:${credential.password}`).toString('base64')}`;
}

function withHeader(request: HttpRequest, token: Token | undefined): HttpRequest {
  return token === undefined
    ? request
    : { ...request, headers: { ...request.headers, authorization: token.header } };
}

function scopeKey(scope: Scope): string {
  return [scope.registry, scope.repository, scope.actions, ...(scope.alsoPull ?? [])].join(' ');
}
