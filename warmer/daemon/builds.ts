import type { BuildAnnouncement } from '../../src/volume/index.ts';
import type { Clock } from './clock.ts';
import { keyOf } from './image-key.ts';
import type { WarmingStatus } from './types.ts';

type RunningBuild = WarmingStatus['builds'][number];

/** The builds that run now, as they have announced themselves. */
export class Builds {
  readonly #clock: Clock;
  readonly #running = new Set<RunningBuild>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Begins a build; disposing the result ends it. */
  begin(build: BuildAnnouncement): Disposable {
    const running: RunningBuild = { ...build, since: new Date(this.#clock.now()) };
    this.#running.add(running);
    return { [Symbol.dispose]: () => void this.#running.delete(running) };
  }

  /** Oldest first. */
  list(): RunningBuild[] {
    return [...this.#running];
  }

  /** Labels of the builds that use each image, by key. */
  users(): Map<string, string[]> {
    const users = new Map<string, string[]>();
    for (const { images, label } of this.#running)
      for (const key of new Set(images.map(keyOf))) {
        const labels = users.get(key);
        if (labels === undefined) users.set(key, [label]);
        else labels.push(label);
      }
    return users;
  }
}
