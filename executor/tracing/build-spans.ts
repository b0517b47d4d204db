import {
  type Attributes,
  type Context,
  type Span,
  SpanStatusCode,
  trace,
  type Tracer,
} from '@opentelemetry/api';
import { hideCredentials, type ProgressEvent } from '../../src/support/index.ts';

type EventOf<T extends ProgressEvent['type']> = Extract<ProgressEvent, { type: T }>;

/** An open span and what its own spans are below. */
interface Open {
  readonly span: Span;
  readonly context: Context;
}

/** Milliseconds since 1970 by one clock: spans that the library times itself would now and then outlast those around them. */
const now = (): number => performance.timeOrigin + performance.now();

/** Makes spans of a build's events: one for the build, below it one for each stage and transfer, below stages one for each step. */
export class BuildSpans {
  readonly #tracer: Tracer;
  readonly #build: Open;
  readonly #stages = new Map<string, Open>();
  readonly #steps = new Map<string, Open>();

  /** The build began when the process did. */
  constructor(tracer: Tracer, parent: Context, name: string) {
    this.#tracer = tracer;
    this.#build = this.#open(`build ${name}`, parent, { 'kiln.image': name }, performance.timeOrigin);
  }

  take(event: ProgressEvent): void {
    switch (event.type) {
      case 'step-start':
        return this.#startStep(event);
      case 'step-end':
        return this.#endStep(event);
      case 'cache':
        this.#steps.get(event.step)?.span.setAttributes({
          'kiln.cache.key': event.key,
          'kiln.cache.outcome': event.outcome,
          ...(event.detail === undefined ? {} : { 'kiln.cache.detail': event.detail }),
        });
        return;
      case 'transfer':
        if (event.done) this.#tellTransfer(event);
        return;
      case 'base': {
        const { reference, platform, outcome } = event;
        this.#build.span.addEvent('base image', {
          'kiln.base': reference,
          'kiln.platform': platform,
          'kiln.base.outcome': outcome,
        });
        return;
      }
      case 'log':
        if (event.level === 'warn') this.#build.span.addEvent('warning', { message: event.message });
        return;
      case 'result':
        for (const [name, value] of Object.entries(event.fields))
          this.#build.span.setAttribute(`kiln.${name}`, value);
        return;
      case 'output':
      case 'count':
      case 'check':
    }
  }

  failed(message: string): void {
    this.#build.span.setStatus({ code: SpanStatusCode.ERROR, message: hideCredentials(message) });
  }

  /** Ends what is open, from the inside out. */
  end(): void {
    for (const { span } of [...this.#steps.values(), ...this.#stages.values(), this.#build]) span.end(now());
  }

  #startStep({ step, text, line }: EventOf<'step-start'>): void {
    const { context } = this.#stageOf(step);
    const attributes = { 'kiln.step': step, ...(line === undefined ? {} : { 'kiln.line': line }) };
    this.#steps.set(step, this.#open(hideCredentials(text), context, attributes));
  }

  #endStep({ step, outcome, bytes, detail }: EventOf<'step-end'>): void {
    const span = this.#steps.get(step)?.span;
    if (span === undefined) return;
    this.#steps.delete(step);
    span.setAttribute('kiln.step.outcome', outcome);
    if (bytes !== undefined) span.setAttribute('kiln.layer.size', bytes);
    if (detail !== undefined) span.setAttribute('kiln.step.detail', detail);
    if (outcome === 'failed') span.setStatus({ code: SpanStatusCode.ERROR });
    span.end(now());
    const [, stage = '', at, count] = stepName(step);
    if (at !== count) return;
    this.#stages.get(stage)?.span.end(now());
    this.#stages.delete(stage);
  }

  /** The span of the stage that a step belongs to, which begins with the first of its steps. */
  #stageOf(step: string): Open {
    const [, stage = ''] = stepName(step);
    const known = this.#stages.get(stage);
    if (known !== undefined) return known;
    const opened = this.#open(`stage ${stage}`, this.#build.context, { 'kiln.stage': stage });
    this.#stages.set(stage, opened);
    return opened;
  }

  #tellTransfer({ label, direction, bytes, seconds = 0 }: EventOf<'transfer'>): void {
    const attributes = { 'kiln.transfer.direction': direction, 'kiln.transfer.bytes': bytes };
    const { span } = this.#open(label, this.#build.context, attributes, now() - seconds * 1000);
    span.end(now());
  }

  #open(name: string, parent: Context, attributes: Attributes, startTime = now()): Open {
    const span = this.#tracer.startSpan(name, { attributes, startTime }, parent);
    return { span, context: trace.setSpan(parent, span) };
  }
}

/** Name of the stage, number of the step and how many there are, of `[build 2/7]`. */
function stepName(step: string): readonly string[] {
  return /^\[(.*) ([0-9]+)\/([0-9]+)\]$/.exec(step) ?? ['', step];
}
