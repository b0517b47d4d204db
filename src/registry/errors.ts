import { KilnError } from '../support/index.ts';

/** One error of a registry's answer (OCI distribution specification, "Error Codes"). */
export interface ProtocolError {
  readonly code: string;
  readonly message: string;
}

/** A registry's answer that was not what the request wanted. */
export class RegistryError extends KilnError {
  override readonly name = 'RegistryError';
  readonly status: number;
  readonly errors: readonly ProtocolError[];
  /** Milliseconds that the registry asks to wait (RFC 9110, 10.2.3), when it says so. */
  readonly retryAfter: number | undefined;

  constructor(request: string, status: number, errors: readonly ProtocolError[], retryAfter?: number) {
    const words = errors
      .map(({ code, message }) => (message === '' ? code : `${code}: ${message}`))
      .join('; ');
    super(`${request}: the registry answered ${status}${words === '' ? '' : ` (${words})`}`, {
      code:
        status === 401 || status === 403
          ? 'E_REGISTRY_UNAUTHORIZED'
          : status === 429 || status >= 500
            ? 'E_REGISTRY_UNAVAILABLE'
            : 'E_REGISTRY_REFUSED',
      category: 'registry',
      remedy: remedyOf(status),
    });
    this.status = status;
    this.errors = errors;
    this.retryAfter = retryAfter;
  }
}

function remedyOf(status: number): string | undefined {
  if (status === 401 || status === 403)
    return 'Check that the name is right and that the Docker configuration has credentials with access to it.';
  if (status === 429) return 'The registry limits requests; wait, log in, or use a mirror.';
  if (status === 404) return 'Check the name of the repository.';
  return status >= 500 ? 'The registry has a fault; try again later.' : undefined;
}

/** The registry could not be reached at all. */
export function unreachable(registry: string, cause: unknown): KilnError {
  return new KilnError(`the registry ${registry} cannot be reached`, {
    code: 'E_REGISTRY_UNAVAILABLE',
    category: 'registry',
    cause,
    remedy: 'Check its name, the network, and (for plain HTTP) --insecure-registry.',
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
    typeof text === 'string' ? text.replace(/\s+/g, ' ').slice(0, 200) : '';
  return list.slice(0, 5).map((item: { code?: unknown; message?: unknown } | null) => ({
    code: line(item?.code),
    message: line(item?.message),
  }));
}
