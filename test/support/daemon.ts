import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Progress } from '../../src/support/index.ts';
import { Volume } from '../../src/volume/index.ts';
import type { Clock } from '../../warmer/daemon/clock.ts';
import { parseConfiguration } from '../../warmer/daemon/configuration.ts';
import { readState } from '../../warmer/daemon/state-file.ts';
import type { WarmingEvent, WarmingImage, WarmingStatus } from '../../warmer/daemon/types.ts';
import { NodeWarming } from '../../warmer/daemon/warming.ts';

interface Alarm {
  readonly at: number;
  readonly callback: () => void;
}

/** A clock that stands still until a test moves it. It begins at the time of the machine. */
export class TestClock implements Clock {
  #now = Date.now();
  readonly #alarms = new Set<Alarm>();

  now(): number {
    return this.#now;
  }

  after(milliseconds: number, callback: () => void): Disposable {
    const alarm: Alarm = { at: this.#now + Math.max(0, milliseconds), callback };
    this.#alarms.add(alarm);
    // What is due at once does not wait for a test to move the clock.
    if (milliseconds <= 0) setImmediate(() => this.#fire(alarm));
    return { [Symbol.dispose]: () => void this.#alarms.delete(alarm) };
  }

  /** Moves the clock, and calls in their order all who wanted to be called by then. */
  async advance(milliseconds: number): Promise<void> {
    const until = this.#now + milliseconds;
    for (;;) {
      const [next] = [...this.#alarms].sort((a, b) => a.at - b.at);
      if (next === undefined || next.at > until) break;
      this.#now = Math.max(this.#now, next.at);
      this.#fire(next);
      // Lets what was called set its next alarm.
      await sleep(0);
    }
    this.#now = until;
  }

  #fire(alarm: Alarm): void {
    if (this.#alarms.delete(alarm)) alarm.callback();
  }
}

/** The daemon's heart in the process of a test, with a clock of its own. */
export interface TestDaemon extends AsyncDisposable {
  readonly warming: NodeWarming;
  readonly volume: Volume;
  readonly clock: TestClock;
  readonly events: readonly WarmingEvent[];
  /** What was logged. */
  readonly log: readonly string[];
  status(): Promise<WarmingStatus>;
  /** The image of the status whose reference ends so. */
  image(ending: string): Promise<WarmingImage | undefined>;
  /** Takes another configuration over. */
  apply(yaml: string): Promise<void>;
  /** Waits until the status is as wanted. */
  until(wanted: (status: WarmingStatus) => boolean, what: string): Promise<WarmingStatus>;
  /** Waits for an event of a type that meets the condition, from those so far or later. */
  event<Type extends WarmingEvent['type']>(
    type: Type,
    wanted?: (event: WarmingEvent & { readonly type: Type }) => boolean,
  ): Promise<WarmingEvent & { readonly type: Type }>;
}

/** Starts a daemon's heart on the volume in `directory`. */
export async function openDaemon(directory: string, yaml: string): Promise<TestDaemon> {
  const progress = new Progress();
  const log: string[] = [];
  progress.listen((event) => {
    if (event.type === 'log') log.push(event.message);
  });
  const clock = new TestClock();
  const volume = await Volume.open(directory, { access: 'read-write', durable: false, progress });
  const events: WarmingEvent[] = [];
  const parse = (text: string): ReturnType<typeof parseConfiguration> =>
    parseConfiguration(join(directory, 'warmer.yaml'), text);
  const state = await readState(directory, progress);
  const warming = await NodeWarming.start(
    { volume, configuration: parse(yaml), state, clock, random: () => 0.5, progress },
    (event) => events.push(event),
  );
  const status = (): Promise<WarmingStatus> => warming.status();
  return {
    ...{ warming, volume, clock, events, log, status },
    image: async (ending) => (await status()).images.find(({ reference }) => reference.endsWith(ending)),
    apply: (text) => warming.apply(parse(text)),
    until: (wanted, what) =>
      eventually(async () => {
        const now = await status();
        return wanted(now) ? now : undefined;
      }, what),
    event: <Type extends WarmingEvent['type']>(
      type: Type,
      wanted: (event: WarmingEvent & { readonly type: Type }) => boolean = () => true,
    ) =>
      eventually(
        () =>
          Promise.resolve(
            events.find(
              (event): event is WarmingEvent & { readonly type: Type } =>
                event.type === type && wanted(event as WarmingEvent & { readonly type: Type }),
            ),
          ),
        `an event ${type}`,
      ),
    [Symbol.asyncDispose]: async () => {
      await warming[Symbol.asyncDispose]();
      await volume[Symbol.asyncDispose]();
    },
  };
}

/** Asks again and again until there is an answer. @throws Error naming `what` after half a minute. */
export async function eventually<T>(ask: () => Promise<T | undefined>, what: string): Promise<T> {
  const until = Date.now() + 30_000;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    if (Date.now() > until) throw new Error(`waited in vain for ${what}`);
    await sleep(20);
  }
}
