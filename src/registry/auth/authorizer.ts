import { joinFlight, KilnError, SingleFlight } from '../../support/index.ts';
import { fetchDocument } from '../http/document.ts';
import { errorFrom, type HttpRequest, type HttpResponse, type Send } from '../http/message.ts';
import { type Challenge, parseChallenges } from './challenge.ts';
import { type Credential, type CredentialSource, describeCredential } from './credential.ts';

/** What a request is allowed to do, in the words of the token specification. */
export interface Scope {
  readonly registry: string;
  readonly repository: string;
  readonly actions: 'pull' | 'pull,push' | 'pull,push,delete';
  /** Repositories that blobs are mounted from. */
  readonly alsoPull?: readonly string[];
}

interface Token {
  /** Empty when the registry is asked without. */
  readonly header: string;
  /** Milliseconds since 1970. */
  readonly obtained: number;
  readonly expires: number;
  readonly challenges: readonly Challenge[];
  readonly identity: string;
}

/** Who asks for a token, and in words. */
interface Asker {
  readonly credential: Exclude<Credential, { kind: 'bearer' }> | undefined;
  readonly identity: string;
}

/** A registry that says 403 to what it was just given a token for means it. */
const freshMilliseconds = 10_000;

/** The largest answer of a token server, in bytes. */
const maximumToken = 1024 * 1024;

/**
 * Answers a registry's challenges: Basic, and Bearer with a token server (distribution's token specification).
 * Tokens are kept until shortly before they expire; credentials are asked for anew each time, since those may expire too.
 */
export class Authorizer {
  readonly #send: Send;
  readonly #credentials: CredentialSource;
  readonly #tokens = new Map<string, Token>();
  readonly #fetching = new SingleFlight<string, Token>();

  constructor(send: Send, credentials: CredentialSource) {
    this.#send = send;
    this.#credentials = credentials;
  }

  /** Sends a request with what is known to work, and once more after a challenge. */
  async send(request: HttpRequest, scope: Scope): Promise<HttpResponse> {
    const key = scopeKey(scope);
    const known = this.#tokens.get(key);
    const kept = known !== undefined && known.expires > Date.now() ? known : undefined;
    const response = await this.#send(withHeader(request, kept));
    const challenges = challengesOf(response, kept);
    if (challenges.length === 0) return { ...response, ...identityOf(kept) };
    if (this.#tokens.get(key) === kept) this.#tokens.delete(key);
    const answer = (): Promise<Token> => this.#answer(challenges, scope, request);
    const token = await joinFlight(this.#fetching, key, answer, request.signal);
    if (token.header === '' || token.header === kept?.header) return { ...response, ...identityOf(token) };
    this.#tokens.set(key, token);
    await response.body.dump();
    return { ...(await this.#send(withHeader(request, token))), ...identityOf(token) };
  }

  async #answer(challenges: readonly Challenge[], scope: Scope, request: HttpRequest): Promise<Token> {
    const notes: string[] = [];
    const credential = await this.#credentials.find(scope, request.signal, (note) => notes.push(note));
    const identity = describeCredential(credential, notes);
    const now = Date.now();
    const token = {
      header: '',
      obtained: now,
      expires: credential?.expiresAt ?? Infinity,
      challenges,
      identity,
    };
    const bearer = challenges.find(({ scheme }) => scheme === 'bearer');
    if (bearer !== undefined) {
      if (credential?.kind === 'bearer') return { ...token, header: `Bearer ${credential.token}` };
      const fetched = await this.#fetchToken(bearer, scope, { credential, identity }, request);
      return { ...token, header: `Bearer ${fetched.token}`, expires: now + fetched.lifetime };
    }
    const basic = challenges.some(({ scheme }) => scheme === 'basic');
    return basic && credential?.kind === 'basic' ? { ...token, header: basicHeader(credential) } : token;
  }

  async #fetchToken(
    bearer: Challenge,
    scope: Scope,
    { credential, identity }: Asker,
    request: HttpRequest,
  ): Promise<{ token: string; lifetime: number }> {
    const realm = bearer.parameters.get('realm');
    if (realm === undefined || !URL.canParse(realm))
      throw badChallenge(scope, 'its challenge names no token server');
    const url = new URL(realm);
    if (url.protocol !== 'https:' && !(url.protocol === 'http:' && request.url.protocol === 'http:'))
      throw badChallenge(scope, 'its token server would be sent credentials without encryption');
    const service = bearer.parameters.get('service');
    const scopes = [
      // A login alone is for no repository.
      ...(scope.repository === '' ? [] : [`repository:${scope.repository}:${scope.actions}`]),
      ...(scope.alsoPull ?? []).map((name) => `repository:${name}:pull`),
    ];
    const tokenRequest =
      credential?.kind === 'identity'
        ? tokenPost(url, service, scopes, credential.token, request.signal)
        : tokenGet(url, service, scopes, credential, request.signal);
    const what = `the token for ${scope.registry}/${scope.repository} from ${url.origin}${url.pathname}`;
    const { response, body } = await fetchDocument(
      () => this.#send(tokenRequest),
      maximumToken,
      what,
      request.signal,
    );
    if (body === undefined) throw await errorFrom({ ...response, identity }, `GET ${what}`);
    return parseToken(body, scope);
  }
}

/** The challenges that are worth an answer. A token that was kept for a while may have been revoked: then 403 is one too. */
function challengesOf(response: HttpResponse, kept: Token | undefined): readonly Challenge[] {
  if (response.status === 401) return parseChallenges([response.headers['www-authenticate'] ?? []].flat());
  const stale = kept !== undefined && Date.now() - kept.obtained > freshMilliseconds;
  return response.status === 403 && stale ? kept.challenges : [];
}

function identityOf(token: Token | undefined): { identity?: string } {
  return token === undefined ? {} : { identity: token.identity };
}

function parseToken(body: Buffer, scope: Scope): { token: string; lifetime: number } {
  let answer: { token?: unknown; access_token?: unknown; expires_in?: unknown } | null;
  try {
    answer = JSON.parse(body.toString('utf8')) as typeof answer;
  } catch {
    // The text may hold a token, so it is not quoted.
    throw badChallenge(scope, 'its token server did not answer with JSON');
  }
  const token = answer?.token ?? answer?.access_token;
  if (typeof token !== 'string' || token === '' || /[\r\n]/.test(token))
    throw badChallenge(scope, 'its token server gave no token');
  const seconds = typeof answer?.expires_in === 'number' ? answer.expires_in : 60;
  return { token, lifetime: Math.max(1, seconds * 0.8) * 1000 };
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
    ...(scopes.length === 0 ? {} : { scope: scopes.join(' ') }),
  });
  if (service !== undefined) form.set('service', service);
  const body = Buffer.from(form.toString());
  return {
    method: 'POST',
    url,
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body: () => body,
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
