/** Everything the rooms tell about their progress. No room prints; reporters listen. */
export type ProgressEvent =
  | {
      readonly type: 'log';
      readonly level: 'debug' | 'info' | 'warn';
      readonly message: string;
      readonly step?: string;
    }
  | { readonly type: 'step-start'; readonly step: string; readonly text: string; readonly line?: number }
  | {
      readonly type: 'step-end';
      readonly step: string;
      readonly outcome: StepOutcome;
      readonly seconds: number;
      /** Bytes of the compressed layer, when the step made or reused one. */
      readonly bytes?: number;
      /** Why a step was not served from the cache, or another remark. */
      readonly detail?: string;
    }
  | {
      readonly type: 'output';
      readonly step: string;
      readonly stream: 'stdout' | 'stderr';
      readonly data: Uint8Array;
    }
  | {
      readonly type: 'transfer';
      /** Stable while one transfer lasts, for example `pull sha256:…`. */
      readonly id: string;
      readonly direction: 'pull' | 'push' | 'unpack' | 'mount';
      readonly label: string;
      readonly bytes: number;
      readonly total?: number;
      readonly done: boolean;
      /** Since it began. */
      readonly seconds?: number;
    }
  | {
      /** How many of many small things are done. */
      readonly type: 'count';
      readonly id: string;
      readonly label: string;
      readonly count: number;
      readonly total: number;
      readonly done: boolean;
    }
  | {
      readonly type: 'base';
      readonly reference: string;
      readonly platform: string;
      readonly outcome: BaseOutcome;
      /** Where it comes from, for people. */
      readonly detail: string;
    }
  | {
      /** A build check found something in the Dockerfile. */
      readonly type: 'check';
      readonly rule: string;
      readonly message: string;
      readonly remedy: string;
      /** The page that explains the rule. */
      readonly page: string;
      /** The Dockerfile, and the first line of the instruction. */
      readonly file: string;
      readonly line: number;
    }
  | {
      readonly type: 'cache';
      readonly step: string;
      readonly key: string;
      readonly outcome: LookupOutcome;
      /** Of a hit, the cache that had it. */
      readonly location?: string;
      readonly detail?: string;
    }
  | {
      readonly type: 'result';
      readonly message: string;
      readonly fields: Readonly<Record<string, string | number>>;
    };

export type StepOutcome = 'ran' | 'cached' | 'skipped' | 'metadata' | 'failed';

/**
 * How a build comes by a base image: it was on the volume, the node's warmer brings it there for the build, or the build
 * fetches it for itself.
 */
export type BaseOutcome = 'warm' | 'ensured' | 'cold';

/** What asking a cache for a key gave; these are never merged into one "miss". */
export type LookupOutcome =
  'hit' | 'miss' | 'expired' | 'untrusted' | 'unauthorized' | 'error' | 'corrupt' | 'other-rootfs';

export type ProgressListener = (event: ProgressEvent) => void;

/** Receives progress events and hands each to every listener, in order. */
export class Progress {
  readonly #listeners = new Set<ProgressListener>();

  /** Adds a listener; disposing the result removes it. */
  listen(listener: ProgressListener): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  emit(event: ProgressEvent): void {
    for (const listener of this.#listeners) listener(event);
  }

  warn(message: string, step?: string): void {
    this.emit({ type: 'log', level: 'warn', message, ...(step === undefined ? {} : { step }) });
  }

  info(message: string, step?: string): void {
    this.emit({ type: 'log', level: 'info', message, ...(step === undefined ? {} : { step }) });
  }
}
