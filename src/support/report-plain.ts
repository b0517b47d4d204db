import type { ProgressEvent, ProgressListener } from './events.ts';
import { formatBytes, formatSeconds, printable, shortenDigests } from './format.ts';

/** Cuts a stream of output into lines; what a step prints is passed on byte for byte. */
export class LineSplitter {
  readonly #pending = new Map<string, Buffer>();

  /** Adds output of `source`; returns the lines it completes, without their line feed. */
  push(source: string, data: Uint8Array): Buffer[] {
    let rest = Buffer.concat([this.#pending.get(source) ?? Buffer.alloc(0), data]);
    const lines: Buffer[] = [];
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      lines.push(rest.subarray(0, end));
      rest = rest.subarray(end + 1);
    }
    // A step that never ends its line must not fill the memory.
    if (rest.length > 65536) {
      lines.push(rest);
      rest = Buffer.alloc(0);
    }
    if (rest.length > 0) this.#pending.set(source, Buffer.from(rest));
    else this.#pending.delete(source);
    return lines;
  }

  /** The unfinished last line of every stream of `step`. */
  flush(step: string): Buffer[] {
    const lines: Buffer[] = [];
    for (const [source, rest] of this.#pending) {
      if (!source.startsWith(`${step}\0`)) continue;
      lines.push(rest);
      this.#pending.delete(source);
    }
    return lines;
  }
}

/** Bytes below which a transfer, such as that of a manifest, is not worth a line. */
const smallTransfer = 65536;

/** One line for an event, or undefined when plain output leaves it out. */
export function describeEvent(event: ProgressEvent): string | undefined {
  switch (event.type) {
    case 'log':
      if (event.level === 'debug') return undefined;
      return `${event.step === undefined ? '' : `${event.step} `}${event.level === 'warn' ? 'warning: ' : ''}${event.message}`;
    case 'step-start':
      return `${event.step} ${printable(event.text)}`;
    case 'step-end':
      return describeStepEnd(event);
    case 'transfer':
      return event.done && event.bytes >= smallTransfer
        ? `${shortenDigests(event.label)} ${formatBytes(event.bytes)}`
        : undefined;
    case 'base':
      return `base ${shortenDigests(event.reference)}: ${event.detail}`;
    case 'result':
      return event.message;
    case 'check':
      return printable(`warning: ${event.file}:${event.line}: ${event.rule}: ${event.message}`);
    case 'cache':
    case 'count':
    case 'output':
      return undefined;
  }
}

function describeStepEnd(event: Extract<ProgressEvent, { type: 'step-end' }>): string | undefined {
  const words = { ran: 'done', cached: 'CACHED', skipped: 'skipped', metadata: undefined, failed: 'FAILED' }[
    event.outcome
  ];
  if (words === undefined) return undefined;
  const size = event.bytes === undefined ? '' : `, layer ${formatBytes(event.bytes)}`;
  const time =
    event.outcome === 'cached' || event.outcome === 'skipped' ? '' : ` in ${formatSeconds(event.seconds)}`;
  const detail = event.detail === undefined ? '' : ` (${event.detail})`;
  return `${event.step} ${words}${time}${size}${detail}`;
}

/** One line an event, each prefixed by its step; for logs of continuous integration. */
export function plainReporter(write: (data: string | Uint8Array) => void): ProgressListener {
  const splitter = new LineSplitter();
  const prefixed = (step: string, lines: readonly Buffer[]): void => {
    for (const line of lines) write(Buffer.concat([Buffer.from(`${step} | `), line, Buffer.from('\n')]));
  };
  return (event) => {
    if (event.type === 'output') {
      prefixed(event.step, splitter.push(`${event.step}\0${event.stream}`, event.data));
      return;
    }
    if (event.type === 'step-end') prefixed(event.step, splitter.flush(event.step));
    const line = describeEvent(event);
    if (line !== undefined) write(`${line}\n`);
  };
}
