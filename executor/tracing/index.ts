import type { Progress, ProcessEnvironment } from '../../src/support/index.ts';

/** The trace of one build. Disposing it ends what is open, and sends all. */
export interface BuildTrace extends AsyncDisposable {
  /** The build did not succeed. */
  failed(error: unknown): void;
}

/**
 * Traces a build when OpenTelemetry's variables ask for it: an address to send to, or `OTEL_TRACES_EXPORTER`. Nothing is loaded
 * otherwise. A trace that cannot be sent is a warning.
 *
 * @see https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
 */
export async function traceBuild(
  environment: ProcessEnvironment,
  name: string,
  progress: Progress,
): Promise<BuildTrace | undefined> {
  if (!isWanted(environment)) return undefined;
  const { openTrace } = await import('./open-trace.ts');
  return openTrace(environment, name, progress);
}

function isWanted(environment: ProcessEnvironment): boolean {
  if (environment.OTEL_SDK_DISABLED?.toLowerCase() === 'true') return false;
  const { OTEL_TRACES_EXPORTER: exporter = '' } = environment;
  if (exporter !== '') return exporter !== 'none';
  const endpoints = [environment.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, environment.OTEL_EXPORTER_OTLP_ENDPOINT];
  return endpoints.some((endpoint) => endpoint !== undefined && endpoint !== '');
}
