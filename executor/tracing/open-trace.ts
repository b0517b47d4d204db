import { type Context, defaultTextMapGetter, ROOT_CONTEXT } from '@opentelemetry/api';
import { type ExportResult, ExportResultCode, W3CTraceContextPropagator } from '@opentelemetry/core';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-proto';
import {
  defaultResource,
  detectResources,
  envDetector,
  resourceFromAttributes,
} from '@opentelemetry/resources';
import {
  AlwaysOffSampler,
  AlwaysOnSampler,
  BatchSpanProcessor,
  ParentBasedSampler,
  type ReadableSpan,
  type Sampler,
  type SpanExporter,
  TraceIdRatioBasedSampler,
  TracerProvider,
} from '@opentelemetry/sdk-trace';
import {
  messageOf,
  type Progress,
  UsageError,
  version,
  type ProcessEnvironment,
} from '../../src/support/index.ts';
import { BuildSpans } from './build-spans.ts';
import type { BuildTrace } from './index.ts';

/** How long a build waits at its end for its trace to be taken, in milliseconds. */
const patience = 5000;

/** Traces must not take the memory of a build with very many steps. */
const maxQueueSize = 4096;

/** @throws UsageError for a variable that asks for what is not there. */
export function openTrace(environment: ProcessEnvironment, name: string, progress: Progress): BuildTrace {
  requireSupported(environment);
  const exporter = new TellingExporter(new OTLPTraceExporter(), (reason) =>
    progress.warn(`the trace of the build could not be sent: ${reason}`),
  );
  const resource = defaultResource()
    .merge(resourceFromAttributes({ 'service.name': 'kiln-executor', 'service.version': version }))
    .merge(detectResources({ detectors: [envDetector] }));
  const provider = new TracerProvider({
    resource,
    sampler: samplerOf(environment),
    spanProcessors: [new BatchSpanProcessor({ exporter, maxQueueSize, exportTimeoutMillis: patience })],
  });
  const spans = new BuildSpans(provider.getTracer('kiln', version), parentOf(environment), name);
  const listening = progress.listen((event) => spans.take(event));
  return {
    failed: (error) => spans.failed(messageOf(error)),
    [Symbol.asyncDispose]: async () => {
      listening[Symbol.dispose]();
      spans.end();
      await provider
        .forceFlush({ timeoutMillis: patience })
        .catch((error: unknown) => exporter.tell(messageOf(error)));
      await provider.shutdown().catch(() => undefined);
    },
  };
}

function requireSupported(environment: ProcessEnvironment): void {
  const { OTEL_TRACES_EXPORTER: exporter = 'otlp' } = environment;
  if (!exporter.split(',').includes('otlp') && exporter !== '')
    throw new UsageError(`OTEL_TRACES_EXPORTER asks for ${exporter}, which Kiln does not have`, {
      remedy: 'Use otlp, or none.',
    });
  const protocol =
    environment.OTEL_EXPORTER_OTLP_TRACES_PROTOCOL ?? environment.OTEL_EXPORTER_OTLP_PROTOCOL ?? '';
  if (protocol !== '' && protocol !== 'http/protobuf')
    throw new UsageError(`the protocol of OpenTelemetry is ${protocol}, which Kiln does not speak`, {
      remedy: 'Set OTEL_EXPORTER_OTLP_PROTOCOL to http/protobuf and the endpoint to that port, often 4318.',
    });
}

/** What runs the build may itself be traced, and says so as W3C Trace Context in `TRACEPARENT`. */
function parentOf({ TRACEPARENT: traceparent, TRACESTATE: tracestate }: ProcessEnvironment): Context {
  const carrier = { ...(traceparent && { traceparent }), ...(tracestate && { tracestate }) };
  return new W3CTraceContextPropagator().extract(ROOT_CONTEXT, carrier, defaultTextMapGetter);
}

function samplerOf(environment: ProcessEnvironment): Sampler {
  const { OTEL_TRACES_SAMPLER: name = '', OTEL_TRACES_SAMPLER_ARG: argument = '1' } = environment;
  const samplers: Readonly<Record<string, () => Sampler>> = {
    always_on: () => new AlwaysOnSampler(),
    always_off: () => new AlwaysOffSampler(),
    traceidratio: () => new TraceIdRatioBasedSampler(ratioOf(argument)),
  };
  const [, based, base = ''] =
    /^(parentbased_)?(.*)$/.exec(name === '' ? 'parentbased_always_on' : name) ?? [];
  const make = samplers[base];
  if (make === undefined)
    throw new UsageError(`OTEL_TRACES_SAMPLER is ${name}, which is no sampler`, {
      remedy: `Use ${Object.keys(samplers).join(', ')}, or one of these after parentbased_.`,
    });
  return based === undefined ? make() : new ParentBasedSampler({ root: make() });
}

function ratioOf(text: string): number {
  const ratio = Number(text);
  if (ratio >= 0 && ratio <= 1) return ratio;
  throw new UsageError(`OTEL_TRACES_SAMPLER_ARG is ${text}, which is not between 0 and 1`, {});
}

/** Says once why spans could not be sent. */
class TellingExporter implements SpanExporter {
  readonly #exporter: SpanExporter;
  readonly #onFailure: (reason: string) => void;
  #told = false;

  constructor(exporter: SpanExporter, onFailure: (reason: string) => void) {
    this.#exporter = exporter;
    this.#onFailure = onFailure;
  }

  export(spans: ReadableSpan[], done: (result: ExportResult) => void): void {
    this.#exporter.export(spans, (result) => {
      if (result.code === ExportResultCode.FAILED) this.tell(messageOf(result.error ?? 'no reason given'));
      done(result);
    });
  }

  tell(reason: string): void {
    if (this.#told) return;
    this.#told = true;
    this.#onFailure(reason);
  }

  async forceFlush(): Promise<void> {
    await this.#exporter.forceFlush?.();
  }

  async shutdown(): Promise<void> {
    await this.#exporter.shutdown();
  }
}
