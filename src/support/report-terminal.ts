import type { ProgressListener } from './events.ts';
import { formatBytes, formatSeconds, printable, shortenDigests } from './format.ts';
import { plainReporter } from './report-plain.ts';

/** The part of a terminal that the reporter needs. */
export interface Terminal {
  readonly columns?: number;
  readonly rows?: number;
  write(data: string | Uint8Array): unknown;
}

interface LiveLine {
  readonly label: string;
  readonly started: number;
  bytes: number;
  total: number | undefined;
  /** What stands on the right in place of bytes and time. */
  count?: string;
}

const redrawMilliseconds = 100;

/**
 * Plain lines scrolling by, and below them one live line per running step or transfer.
 * Disposing it clears the live lines.
 */
export class TerminalReporter implements Disposable {
  readonly #terminal: Terminal;
  readonly #plain: ProgressListener;
  readonly #live = new Map<string, LiveLine>();
  #drawn = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
    this.#plain = plainReporter((data) => {
      this.#clear();
      this.#terminal.write(data);
    });
  }

  readonly listener: ProgressListener = (event) => {
    if (event.type === 'step-start') this.#start(event.step, `${event.step} ${event.text}`);
    if (event.type === 'step-end') this.#live.delete(event.step);
    if (event.type === 'transfer') {
      if (event.done) this.#live.delete(event.id);
      else {
        const line = this.#start(event.id, event.label);
        line.bytes = event.bytes;
        line.total = event.total;
      }
    }
    if (event.type === 'count') {
      if (event.done) this.#live.delete(event.id);
      else this.#start(event.id, event.label).count = `${event.count} of ${event.total}`;
    }
    this.#plain(event);
    this.#schedule();
  };

  [Symbol.dispose](): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#live.clear();
    this.#clear();
  }

  #start(id: string, label: string): LiveLine {
    const known = this.#live.get(id);
    if (known !== undefined) return known;
    const line: LiveLine = { label, started: performance.now(), bytes: 0, total: undefined };
    this.#live.set(id, line);
    return line;
  }

  #schedule(): void {
    if (this.#timer !== undefined) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#draw();
      if (this.#live.size > 0) this.#schedule();
    }, redrawMilliseconds);
    this.#timer.unref();
  }

  #clear(): void {
    if (this.#drawn > 0) this.#terminal.write(`\x1b[${this.#drawn}A\x1b[J`);
    this.#drawn = 0;
  }

  #draw(): void {
    this.#clear();
    // A terminal that does not know its size says 0.
    const { columns = 0, rows = 0 } = this.#terminal;
    const width = (columns > 0 ? Math.max(20, columns) : 80) - 1;
    // The cursor cannot go up to what has scrolled away.
    const room = (rows > 0 ? Math.max(2, rows) : 24) - 1;
    const live = [...this.#live.values()];
    const shown = live.length > room ? live.slice(0, room - 1) : live;
    const lines = shown.map((line) => renderLine(line, width));
    if (shown.length < live.length) lines.push(`… and ${live.length - shown.length} more`);
    if (lines.length === 0) return;
    this.#terminal.write(`${lines.join('\n')}\n`);
    this.#drawn = lines.length;
  }
}

function renderLine(line: LiveLine, width: number): string {
  const seconds = (performance.now() - line.started) / 1000;
  const total = line.total === undefined ? '' : ` of ${formatBytes(line.total)}`;
  const rate = line.bytes > 0 && seconds > 0.2 ? `, ${formatBytes(line.bytes / seconds)}/s` : '';
  const right =
    line.count !== undefined
      ? ` ${line.count}`
      : line.bytes > 0
        ? ` ${formatBytes(line.bytes)}${total}${rate}`
        : ` ${formatSeconds(seconds)}`;
  const label = printable(shortenDigests(line.label));
  const room = Math.max(5, width - right.length);
  const left = label.length > room ? `${label.slice(0, room - 1)}…` : label.padEnd(room);
  return (left + right).slice(0, width);
}
