import PQueue from 'p-queue';
import { EnvironmentError, untilAborted } from '../../src/support/index.ts';
import type { PullResult, Volume } from '../../src/volume/index.ts';
import type { Clock } from './clock.ts';
import type { Configuration } from './configuration.ts';
import type { DiskKeeper } from './disk-keeper.ts';
import { Flight, type FlightEnd } from './flight.ts';
import { type ImageRequest, keyOf, nameOf } from './image-key.ts';
import { judgeFailure, rateLimited, recordOf } from './pull-outcome.ts';
import type { RegistryClients } from './registry-clients.ts';
import type { RegistryGates } from './registry-gates.ts';
import { Turn } from './turn.ts';
import type { PullRecord } from './types.ts';

export interface PullerParts {
  readonly volume: Volume;
  readonly clients: RegistryClients;
  readonly gates: RegistryGates;
  readonly disk: DiskKeeper;
  readonly clock: Clock;
  /** Called for every image that was asked for, however that ended. */
  readonly onRecord: (record: PullRecord) => void;
  /** Called when a flight has ended, whoever began it. */
  readonly onEnd: (flight: Flight, end: FlightEnd) => void;
  /** Stops everything; what has arrived is kept for the next start. */
  readonly signal: AbortSignal;
}

export interface BringOptions {
  /** Docker configuration with the credentials; undefined for the daemon's own. */
  readonly pullSecret: string | undefined;
  /** Ask whether the tag still names what is on the volume. */
  readonly refresh: boolean;
  readonly reason: PullRecord['reason'];
}

/** Images that builds wait for, beyond those that are being brought. */
const maximumWaiting = 256;
/** Questions to registries at the same time, for each image that may be fetched at the same time. */
const checksPerPull = 2;

/**
 * Brings images onto the volume, for the schedule and for builds: one flight an image. A question whether a tag has moved
 * does not wait for downloads of others, and a build does not wait for the schedule.
 */
export class Puller {
  readonly #parts: PullerParts;
  readonly #flights = new Map<string, Flight>();
  readonly #checks = new PQueue();
  readonly #scheduled = new PQueue();
  readonly #onDemand = new PQueue();

  constructor(parts: PullerParts, limits: Pick<Configuration, 'concurrency' | 'onDemand'>) {
    this.#parts = parts;
    this.configure(limits);
  }

  /** Applies new limits; what goes on is not interrupted. */
  configure({ concurrency, onDemand }: Pick<Configuration, 'concurrency' | 'onDemand'>): void {
    this.#scheduled.concurrency = concurrency.images;
    this.#onDemand.concurrency = onDemand.concurrency;
    this.#checks.concurrency = checksPerPull * concurrency.images;
  }

  /** All flights that have not ended, by key of image. */
  get flights(): ReadonlyMap<string, Flight> {
    return this.#flights;
  }

  /**
   * Joins the flight of an image, or begins one.
   *
   * @throws EnvironmentError `E_TOO_MANY_REQUESTS` when too many images wait for which builds have asked.
   */
  bring(request: ImageRequest, options: BringOptions): Flight {
    const { reason } = options;
    const name = nameOf(request);
    const key = keyOf(name);
    const known = this.#flights.get(key);
    if (known !== undefined) {
      if (reason === 'build') known.hurry();
      return known;
    }
    if (reason === 'build' && this.#onDemand.size >= maximumWaiting)
      throw new EnvironmentError('too many images are waited for', {
        code: 'E_TOO_MANY_REQUESTS',
        remedy: 'Raise onDemand.concurrency in the configuration, or warm them beforehand.',
      });
    const flight = new Flight(request, name, reason);
    this.#flights.set(key, flight);
    void this.#fly(flight, options).then((end) => {
      this.#flights.delete(key);
      this.#parts.onEnd(flight, end);
      flight.end(end);
    });
    return flight;
  }

  /** Waits until every flight has ended; the signal makes them. */
  async settle(): Promise<void> {
    await Promise.all([...this.#flights.values()].map(({ done }) => done));
  }

  async #fly(flight: Flight, options: BringOptions): Promise<FlightEnd> {
    const { clock, onRecord, signal } = this.#parts;
    using check = new Turn();
    using place = new Turn();
    if (flight.urgent) check.take();
    else check.waitIn(this.#checks);
    flight.hurry = () => check.take();
    const land = async (): Promise<void> => {
      check[Symbol.dispose]();
      place.waitIn(flight.urgent ? this.#onDemand : this.#scheduled);
      flight.hurry = () => place.waitIn(this.#onDemand);
      await untilAborted(place.came, signal);
    };
    let startedAt = clock.now();
    let end: FlightEnd;
    let bytes = 0;
    try {
      await untilAborted(check.came, signal);
      startedAt = clock.now();
      const result = await this.#visit(flight, options, land);
      if ('bytes' in result) ({ bytes } = result);
      end = 'until' in result ? { outcome: 'postponed', until: result.until } : result;
    } catch (error) {
      end = judgeFailure(error, signal);
    }
    const record = recordOf(flight, end, { startedAt, endedAt: clock.now(), bytes });
    if (record !== undefined) onRecord(record);
    return end;
  }

  /** Asks and pulls, and tells the gate of the registry how that went. */
  async #visit(
    flight: Flight,
    { pullSecret, refresh }: BringOptions,
    land: () => Promise<void>,
  ): Promise<PullResult | { readonly until: number }> {
    const { volume, clients, gates, disk, signal } = this.#parts;
    const { reference, platform } = flight.request;
    const { registry } = reference;
    const asks = reference.digest === undefined && refresh;
    const isThere = !asks && (await volume.find(reference, platform)) !== undefined;
    const until = isThere ? undefined : gates.closedUntil(registry);
    if (until !== undefined && !flight.urgent) return { until };
    const limit = isThere ? undefined : gates.limitedUntil(registry);
    if (limit !== undefined) throw rateLimited(registry, new Date(limit));
    flight.phase = 'checking';
    using visit = gates.visit(registry);
    await using reservation = disk.reserve();
    try {
      const result = await clients.use(pullSecret, (client) =>
        volume.pull(client, reference, platform, {
          signal,
          refresh,
          priority: flight.urgent ? 1 : 0,
          onImage: (image) => {
            visit.succeeded();
            flight.tellImage(image);
          },
          onProgress: (bytes, total) => {
            reservation.progress(bytes);
            flight.tellProgress(bytes, total);
          },
          makeRoom: async (needed) => {
            await land();
            flight.phase = 'pulling';
            await reservation.take(needed);
          },
        }),
      );
      // For what is there already no registry is asked, so nothing is known of it.
      if (!isThere) visit.succeeded();
      return result;
    } catch (error) {
      const end = judgeFailure(error, signal);
      if (end.outcome === 'rate_limited') visit.failed({ retryAfter: end.retryAfter });
      else if (end.outcome === 'failed' && end.registryAway) visit.failed(undefined);
      else if (end.outcome !== 'stopped') visit.succeeded();
      throw error;
    }
  }
}
