import { RegistryError } from '../../src/registry/index.ts';
import { isAbortError, KilnError, messageOf, systemErrorCode } from '../../src/support/index.ts';
import type { Flight, FlightEnd, FlightFailure } from './flight.ts';
import type { PullRecord } from './types.ts';

/** What an error says about the image, the registry and the disk. */
export function judgeFailure(
  error: unknown,
  stop: AbortSignal,
): FlightFailure | Extract<FlightEnd, { outcome: 'stopped' }> {
  if (stop.aborted || isAbortError(error)) return { outcome: 'stopped', error };
  const code = systemErrorCode(error);
  if (error instanceof RegistryError && error.status === 429)
    return { outcome: 'rate_limited', error, registryAway: true, retryAfter: error.retryAfter };
  if (code === 'E_REGISTRY_RATE_LIMITED')
    return { outcome: 'rate_limited', error, registryAway: true, retryAfter: undefined };
  if (code === 'E_NO_SPACE') return { outcome: 'skipped_disk', error, registryAway: false };
  return { outcome: 'failed', error, registryAway: code === 'E_REGISTRY_UNAVAILABLE' };
}

/** For a build that asks while the registry wants to be left alone. */
export function rateLimited(registry: string, until: Date): KilnError {
  return new KilnError(`${registry} limits requests and is left alone until ${until.toISOString()}`, {
    code: 'E_REGISTRY_RATE_LIMITED',
    category: 'registry',
    remedy: 'Wait, give the warmer a pullSecret, or use a mirror.',
  });
}

/** What is wrong and why, in one line. */
export function wordsOf(error: unknown): string {
  const message = messageOf(error);
  const cause = error instanceof Error && error.cause !== undefined ? messageOf(error.cause) : '';
  const [why = ''] = cause.split('\n', 1);
  return why === '' || message.includes(why) ? message : `${message} (${why})`;
}

/** Flags that remedies name, and what does the same in a configuration. */
const flagsAsFields: readonly (readonly [RegExp, string])[] = [
  [/--registry-certificate \S+=FILE/, '“certificate” of this registry in the configuration'],
  [
    /--registry-client-cert(?: \S+=CERTIFICATE,KEY)?/,
    '“clientCertificate” of this registry in the configuration',
  ],
  [/--insecure-registry \S+?(?=\.?$)/, '“insecure” of this registry in the configuration'],
  [/give --platform \S+?(?=\.?$)/, '“platforms” of this image in the configuration'],
];

/** What can be done about it, in the words of the error that knows, for a reader who has a configuration and no flags. */
export function remedyOf(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  if (!(error instanceof KilnError) || error.remedy === undefined) return remedyOf(error.cause);
  return flagsAsFields.reduce((text, [flag, field]) => text.replace(flag, field), error.remedy);
}

/** What is kept of a flight; undefined when nothing was asked. Times in milliseconds since 1970. */
export function recordOf(
  { name, request, reason }: Flight,
  end: FlightEnd,
  {
    startedAt,
    endedAt,
    bytes,
  }: { readonly startedAt: number; readonly endedAt: number; readonly bytes: number },
): PullRecord | undefined {
  if (end.outcome === 'postponed' || end.outcome === 'stopped') return undefined;
  return {
    ...name,
    registry: request.reference.registry,
    outcome: end.outcome,
    reason,
    startedAt: new Date(startedAt),
    seconds: (endedAt - startedAt) / 1000,
    bytes,
    ...('error' in end ? { error: wordsOf(end.error) } : {}),
  };
}
