import { setTimeout as sleep } from 'node:timers/promises';
import type { Digest, Image } from '../../src/oci/index.ts';
import { digestOf, formatPlatform, formatReference } from '../../src/oci/index.ts';
import type { BuildAnnouncement, BuildReport } from '../../src/volume/index.ts';
import type {
  Ensured,
  Warming,
  WarmingEvent,
  WarmingImage,
  WarmingStatus,
} from '../../warmer/daemon/types.ts';

/** What a {@link FakeWarming} was asked for and has not answered yet. */
export interface AskedImage {
  readonly reference: string;
  readonly platform: string;
  readonly signal: AbortSignal;
  readonly progress: (bytes: number, total: number) => void;
  readonly image: (image: Pick<Image, 'manifestBytes' | 'configBytes'>) => void;
  ready(outcome?: Ensured['outcome']): void;
  fail(error: unknown): void;
}

/** The digest that a {@link FakeWarming} gives every image. */
export const fakeDigest: Digest = digestOf('an image');

/** A `Warming` that does what a test says, to try the servers without registry and volume. */
export class FakeWarming implements Warming {
  readonly asked: AskedImage[] = [];
  readonly builds = new Map<string, BuildAnnouncement & { readonly since: Date }>();
  readonly reports: BuildReport[] = [];
  /** Leases that were given and not returned. */
  leases = 0;
  /** What `status` says; change what matters. */
  current: WarmingStatus = fakeStatus();
  /** Called for every image that is asked for. */
  onAsked: (asked: AskedImage) => void = () => undefined;
  readonly #listeners = new Set<(event: WarmingEvent) => void>();

  status(): Promise<WarmingStatus> {
    return Promise.resolve({ ...this.current, builds: [...this.current.builds, ...this.builds.values()] });
  }

  ensure(
    ...[reference, platform, progress, signal, image = () => undefined]: Parameters<Warming['ensure']>
  ): Promise<Ensured> {
    const { promise, resolve, reject } = Promise.withResolvers<Ensured>();
    const asked: AskedImage = {
      reference: formatReference(reference),
      platform: formatPlatform(platform),
      signal,
      progress,
      image,
      ready: (outcome = 'pulled') => {
        if (signal.aborted) return;
        this.leases += 1;
        const dispose = (): Promise<void> => {
          this.leases -= 1;
          return Promise.resolve();
        };
        resolve({ digest: fakeDigest, outcome, lease: { [Symbol.asyncDispose]: dispose } });
      },
      fail: reject,
    };
    const abort = (): void => reject(signal.reason as Error);
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    this.asked.push(asked);
    this.onAsked(asked);
    return promise;
  }

  announce(build: BuildAnnouncement): Disposable {
    this.builds.set(build.build, { ...build, since: new Date() });
    return { [Symbol.dispose]: () => void this.builds.delete(build.build) };
  }

  report(report: BuildReport): void {
    this.reports.push(report);
    this.emit({ type: 'report', report });
  }

  listen(listener: (event: WarmingEvent) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  emit(event: WarmingEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}

/** A status of a daemon that has just begun, with what is given in place of its own. */
export function fakeStatus(part: Partial<WarmingStatus> = {}): WarmingStatus {
  const now = new Date();
  return {
    version: '0.1.0',
    startedAt: now,
    ready: true,
    checks: [
      { name: 'configuration', ok: true, detail: 'in force' },
      { name: 'index', ok: true, detail: 'open' },
      { name: 'volume', ok: true, detail: 'writable' },
      { name: 'images', ok: true, detail: 'all configured images are warm' },
    ],
    configuration: {
      path: '/etc/kiln/warmer.yaml',
      loadedAt: now,
      digest: digestOf('yaml'),
      rejected: undefined,
    },
    images: [],
    builds: [],
    disk: { used: 34e9, free: 48e9, total: 100e9, high: 60e9, low: 50e9 },
    pulls: [],
    hitRate: [],
    ...part,
  };
}

/** A warm image, with what is given in place of its own. */
export function fakeImage(reference: string, part: Partial<WarmingImage> = {}): WarmingImage {
  const now = Date.now();
  return {
    reference,
    platform: 'linux/amd64',
    source: 'configured',
    phase: 'warm',
    digest: digestOf(reference),
    size: 50_000_000,
    pinned: false,
    pulledAt: new Date(now - 86_400_000),
    checkedAt: new Date(now - 600_000),
    nextRefreshAt: new Date(now + 3_000_000),
    lastUsedAt: new Date(now - 60_000),
    uses: 3,
    failures: 0,
    lastError: undefined,
    transfer: undefined,
    usedBy: [],
    ...part,
  };
}

/** Waits until something is so. @throws Error when it is not after ten seconds. */
export async function eventually(isSo: () => boolean | Promise<boolean>): Promise<void> {
  for (const until = performance.now() + 10_000; !(await isSo()); await sleep(10))
    if (performance.now() > until) throw new Error(`it did not come about: ${isSo.toString()}`);
}
