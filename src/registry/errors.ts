import { KilnError, systemErrorCode } from '../support/index.ts';

/** One error of a registry's answer (OCI distribution specification, "Error Codes"). */
export interface ProtocolError {
  readonly code: string;
  readonly message: string;
}

/** What else is known of an answer that was not wanted. */
export interface AnswerDetails {
  /** Who we said we were. */
  readonly identity?: string | undefined;
  /** Milliseconds, from Retry-After. */
  readonly retryAfter?: number | undefined;
  /** What may help, beside what helps with the status anyway. */
  readonly hint?: string | undefined;
}

/**
 * A registry's answer that was not what the request wanted. The code is `E_REGISTRY_UNAUTHORIZED` for 401 and 403,
 * `E_REGISTRY_RATE_LIMITED` for 429, `E_REGISTRY_UNAVAILABLE` for 5xx, `E_REGISTRY_REFUSED` otherwise.
 */
export class RegistryError extends KilnError {
  override readonly name = 'RegistryError';
  readonly status: number;
  readonly errors: readonly ProtocolError[];
  /** Milliseconds that the registry wants to be left alone for; undefined when it did not say. */
  readonly retryAfter: number | undefined;

  constructor(
    request: string,
    status: number,
    errors: readonly ProtocolError[],
    details: AnswerDetails = {},
  ) {
    const words = errors
      .map(({ code, message }) => (message === '' ? code : `${code}: ${message}`))
      .join('; ');
    const denied = status === 401 || status === 403;
    const who = denied && details.identity !== undefined ? `, asked ${details.identity}` : '';
    super(`${request}: the registry answered ${status}${words === '' ? '' : ` (${words})`}${who}`, {
      code: codeOf(status),
      category: 'registry',
      remedy: remedyOf(status, details),
    });
    this.status = status;
    this.errors = errors;
    this.retryAfter = details.retryAfter;
  }
}

function codeOf(status: number): `E_${string}` {
  if (status === 401 || status === 403) return 'E_REGISTRY_UNAUTHORIZED';
  if (status === 429) return 'E_REGISTRY_RATE_LIMITED';
  return status >= 500 ? 'E_REGISTRY_UNAVAILABLE' : 'E_REGISTRY_REFUSED';
}

function remedyOf(status: number, { retryAfter, hint }: AnswerDetails): string | undefined {
  const known = remedyFor(status, retryAfter);
  return hint === undefined ? known : `${known === undefined ? '' : `${known} `}${hint}`;
}

function remedyFor(status: number, retryAfter: number | undefined): string | undefined {
  if (status === 401 || status === 403)
    return 'Check that the name is right and that there are credentials with access to it.';
  if (status === 429) {
    const time = retryAfter === undefined ? '' : ` ${Math.ceil(retryAfter / 1000)} seconds`;
    return `The registry limits requests; wait${time}, log in, or use a mirror.`;
  }
  if (status === 404) return 'Check the name of the repository.';
  if (status === 413) return 'Something before the registry limits the size of requests: --push-chunk-size.';
  return status >= 500 ? 'The registry has a fault; try again later.' : undefined;
}

/** No answer could be had. The code is `E_REGISTRY_CERTIFICATE` when that is what is wrong, otherwise `E_REGISTRY_UNAVAILABLE`. */
export function unreachable({ host, protocol }: URL, cause: unknown): KilnError {
  const code = systemErrorCode(cause) ?? '';
  const certificate = /CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE/.test(code)
    ? {
        why: `${host} refuses the connection without a client certificate that it trusts`,
        remedy: `Give one: --registry-client-cert ${host}=CERTIFICATE,KEY.`,
      }
    : /CERT|VERIFY|ALTNAME/.test(code)
      ? {
          why: `the certificate of ${host} is not trusted`,
          remedy: `Give the certificate of its authority: --registry-certificate ${host}=FILE.`,
        }
      : undefined;
  if (certificate !== undefined)
    return new KilnError(certificate.why, {
      code: 'E_REGISTRY_CERTIFICATE',
      category: 'registry',
      cause,
      remedy: certificate.remedy,
    });
  const plain = code === 'EPROTO' || code.startsWith('ERR_SSL');
  // With TLS 1.3, a server that misses our certificate only hangs up.
  const hungUp = code === 'UND_ERR_SOCKET' && protocol === 'https:';
  const more = hungUp ? ', and whether it wants a client certificate (--registry-client-cert)' : '';
  return new KilnError(`the registry ${host} ${plain ? 'does not speak HTTPS' : 'cannot be reached'}`, {
    code: 'E_REGISTRY_UNAVAILABLE',
    category: 'registry',
    cause,
    remedy: plain
      ? `If it is meant to speak plain HTTP: --insecure-registry ${host}.`
      : `Check its name, the network and the proxy${more}.`,
  });
}

/** Reads the error list of an answer's body; anything else gives none. Text is cut, and kept to one line. */
export function parseErrors(body: string): ProtocolError[] {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch (error) {
    if (error instanceof SyntaxError) return [];
    throw error;
  }
  const list = (value as { errors?: unknown } | null)?.errors;
  if (!Array.isArray(list)) return [];
  const line = (text: unknown): string =>
    typeof text === 'string' ? text.replace(/[\s\p{Cc}]+/gu, ' ').slice(0, 200) : '';
  return list.slice(0, 5).map((item: { code?: unknown; message?: unknown } | null) => ({
    code: line(item?.code),
    message: line(item?.message),
  }));
}
