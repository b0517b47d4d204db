import type { Progress } from '../../support/index.ts';

const intervalMilliseconds = 100;

/** Counts the bytes of one transfer and tells of them at most ten times a second. Disposing it ends the transfer. */
export class TransferMeter implements Disposable {
  readonly #progress: Progress | undefined;
  readonly #direction: 'pull' | 'push';
  readonly #label: string;
  readonly #total: number;
  readonly #started = performance.now();
  #bytes = 0;
  #told = this.#started;

  constructor(progress: Progress | undefined, direction: 'pull' | 'push', label: string, total: number) {
    this.#progress = progress;
    this.#direction = direction;
    this.#label = label;
    this.#total = total;
  }

  add(bytes: number): void {
    this.#bytes += bytes;
    const now = performance.now();
    if (now - this.#told < intervalMilliseconds) return;
    this.#told = now;
    this.#tell(false);
  }

  /** Goes on from another byte: an upload that broke off sends some again, or was further than thought. */
  moveTo(bytes: number): void {
    this.#bytes = bytes;
  }

  [Symbol.dispose](): void {
    this.#tell(true);
  }

  #tell(done: boolean): void {
    const verb = this.#direction === 'pull' ? 'pulled' : 'pushed';
    this.#progress?.emit({
      type: 'transfer',
      id: `${this.#direction} ${this.#label}`,
      direction: this.#direction,
      label: `${verb} ${this.#label}`,
      bytes: this.#bytes,
      total: this.#total,
      done,
      seconds: (performance.now() - this.#started) / 1000,
    });
  }
}
