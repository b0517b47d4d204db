import { randomBytes } from 'node:crypto';
import type { Platform, Reference } from '../../src/oci/index.ts';
import { KilnError, messageOf, type Progress, systemErrorCode, version } from '../../src/support/index.ts';
import type { BuildAnnouncement, BuildReport, ImageName, Volume } from '../../src/volume/index.ts';
import { Adoption } from './adoption.ts';
import { Builds } from './builds.ts';
import { CacheRepositories } from './cache-repositories.ts';
import { type Clock, every } from './clock.ts';
import type { Configuration } from './configuration.ts';
import { Desired } from './desired.ts';
import { type Belonging, DiskKeeper } from './disk-keeper.ts';
import { WarmingEvents } from './events.ts';
import type { Flight, FlightEnd } from './flight.ts';
import { History } from './history.ts';
import { HitRecorder } from './hit-recorder.ts';
import { keyOf, tryParseName } from './image-key.ts';
import { type EnsureListener, OnDemand } from './on-demand.ts';
import { Pins } from './pins.ts';
import { Puller } from './puller.ts';
import type { Random } from './refresh.ts';
import { RegistryClients } from './registry-clients.ts';
import { RegistryGates } from './registry-gates.ts';
import { Schedule } from './schedule.ts';
import { type DaemonState, StateFile } from './state-file.ts';
import { checkVolume, describeDisk, describeImages, FirstRound } from './status.ts';
import type { Ensured, Warming, WarmingEvent, WarmingStatus } from './types.ts';
import { Uses } from './uses.ts';
import { isWarm, VolumeView } from './volume-view.ts';

export interface WarmingParts {
  readonly volume: Volume;
  readonly configuration: Configuration;
  /** What the last daemon on the volume remembered. */
  readonly state: DaemonState;
  readonly clock: Clock;
  readonly random: Random;
  readonly progress: Progress;
}

/** After a pull the disk is looked at when no other has ended for so long, in milliseconds. */
const tendDelay = 1000;

/**
 * The heart of the daemon: holds together what keeps a node's volume warm. The parts do the work: the schedule says when,
 * the puller brings, the keeper makes room; this says what each of them has to know of the others.
 */
export class NodeWarming implements Warming, AsyncDisposable {
  readonly #parts: WarmingParts;
  readonly #stop = new AbortController();
  readonly #cleanup = new AsyncDisposableStack();
  readonly #events: WarmingEvents;
  readonly #startedAt: Date;
  readonly #view: VolumeView;
  readonly #gates: RegistryGates;
  readonly #clients: RegistryClients;
  readonly #disk: DiskKeeper;
  readonly #puller: Puller;
  readonly #schedule: Schedule;
  readonly #onDemand: OnDemand;
  readonly #adoption: Adoption;
  readonly #cacheRepositories: CacheRepositories;
  readonly #node: string;
  readonly #hits: HitRecorder;
  readonly #desired: Desired;
  readonly #pins: Pins;
  readonly #builds: Builds;
  readonly #history: History;
  readonly #stateFile: StateFile;
  readonly #uses: Uses;
  readonly #firstRound: FirstRound;
  #configuration: Configuration;
  #loadedAt: Date;
  #rejected: WarmingStatus['configuration']['rejected'];
  #tending: Disposable | undefined;

  private constructor(parts: WarmingParts) {
    const { volume, configuration, state, clock, random, progress } = parts;
    const { signal } = this.#stop;
    this.#parts = parts;
    this.#events = new WarmingEvents(progress);
    const { emit } = this.#events;
    this.#configuration = configuration;
    this.#startedAt = this.#loadedAt = new Date(clock.now());
    this.#view = new VolumeView(volume, clock);
    this.#gates = new RegistryGates(clock, random);
    this.#clients = new RegistryClients(configuration, progress);
    this.#disk = new DiskKeeper(
      { volume, progress, signal, emit, belonging: (image) => this.#belonging(image) },
      configuration.disk,
    );
    const gates = this.#gates;
    const clients = this.#clients;
    const disk = this.#disk;
    this.#puller = new Puller(
      {
        ...{ volume, clients, gates, disk, clock, signal },
        onRecord: (record) => {
          this.#history.addPull(record);
          emit({ type: 'pull', record });
        },
        onEnd: (flight, end) => this.#landed(flight, end),
      },
      configuration,
    );
    const puller = this.#puller;
    this.#schedule = new Schedule({ puller, gates, clock, random });
    this.#onDemand = new OnDemand(
      { volume, puller, gates, clock, emit, ruleOf: (key) => this.#schedule.images.get(key)?.wish },
      configuration.onDemand,
      configuration.byDefault,
      state.requests,
    );
    this.#adoption = new Adoption(
      { clock, emit, allowed: (reference) => this.#onDemand.matches(reference) },
      configuration.adoption,
      state,
    );
    const onChange = (): void => this.#reconcile('schedule');
    this.#cacheRepositories = new CacheRepositories(
      { clients, gates, clock, random, progress, signal, onChange },
      state.cacheRepositories,
    );
    this.#node = state.node ?? randomBytes(6).toString('hex');
    this.#hits = new HitRecorder({ clients, clock, progress, node: this.#node }, configuration.recordHits);
    this.#desired = new Desired(progress);
    this.#pins = new Pins(volume, progress, state.pinned);
    this.#builds = new Builds(clock);
    this.#history = new History(state.samples);
    this.#stateFile = new StateFile(volume.directory, { clock, progress }, () => this.#state());
    this.#uses = new Uses(volume, progress);
    this.#firstRound = new FirstRound(clock.now() + configuration.firstRoundSeconds * 1000);
  }

  /**
   * Starts to keep the volume warm. Disposing the result stops that: running transfers end where the next start goes on.
   *
   * @param listener hears of everything from the beginning on.
   */
  static async start(parts: WarmingParts, listener?: (event: WarmingEvent) => void): Promise<NodeWarming> {
    const warming = new NodeWarming(parts);
    if (listener !== undefined) warming.listen(listener);
    await warming.#start();
    return warming;
  }

  /** What is in force. */
  get configuration(): Configuration {
    return this.#configuration;
  }

  /** Takes a new configuration over; what it does not change goes on undisturbed. */
  async apply(configuration: Configuration): Promise<void> {
    const changed = configuration.digest !== this.#configuration.digest;
    if (changed || this.#rejected !== undefined) {
      this.#loadedAt = new Date(this.#parts.clock.now());
      this.#rejected = undefined;
      this.#events.emit({ type: 'reload', accepted: true, message: `${configuration.path} is in force` });
    }
    this.#configuration = configuration;
    await this.#clients.configure(configuration);
    this.#disk.configure(configuration.disk);
    this.#puller.configure(configuration);
    await this.#limitLayers(configuration);
    this.#onDemand.configure(configuration.onDemand, configuration.byDefault);
    this.#adoption.configure(configuration.adoption);
    this.#hits.configure(configuration.recordHits);
    this.#cacheRepositories.configure(configuration.cacheRepositories);
    await this.#desired.read(configuration);
    this.#reconcile('change');
    if (changed) this.#tendSoon();
  }

  /** A new version of the configuration is not valid; the old one stays in force, with what its Dockerfiles now name. */
  async reject(error: unknown): Promise<void> {
    const message = messageOf(error);
    if (this.#rejected?.message !== message) {
      this.#rejected = { at: new Date(this.#parts.clock.now()), message };
      this.#events.emit({ type: 'reload', accepted: false, message });
    }
    await this.#desired.read(this.#configuration);
    this.#reconcile('change');
  }

  async status(): Promise<WarmingStatus> {
    const { volume, clock } = this.#parts;
    const [stored, usage, volumeChecks] = await Promise.all([
      this.#view.images(),
      this.#view.usage(),
      checkVolume(volume),
    ]);
    const scheduled = this.#schedule.images;
    const checks = [
      this.#checkConfiguration(),
      ...volumeChecks,
      this.#firstRound.check(scheduled, stored, clock.now()),
    ];
    const { path, digest, disk } = this.#configuration;
    return {
      version,
      startedAt: this.#startedAt,
      ready: checks.every(({ ok }) => ok),
      checks,
      configuration: { path, digest, loadedAt: this.#loadedAt, rejected: this.#rejected },
      images: describeImages({
        scheduled,
        stored,
        flights: this.#puller.flights,
        users: this.#builds.users(),
        isOnDemand: (key) => this.#onDemand.owns(key),
      }),
      builds: this.#builds.list(),
      disk: describeDisk(usage, disk),
      pulls: this.#history.pulls,
      hitRate: this.#history.hitRate(),
    };
  }

  async ensure(
    reference: Reference,
    platform: Platform,
    onProgress: (bytes: number, total: number) => void,
    signal: AbortSignal,
    onImage: EnsureListener['onImage'] = () => undefined,
  ): Promise<Ensured> {
    if (this.#stop.signal.aborted) throw stopping();
    try {
      return await this.#onDemand.ensure(reference, platform, { onProgress, onImage }, signal);
    } catch (error) {
      throw this.#stop.signal.aborted ? stopping() : error;
    } finally {
      this.#stateFile.changed();
    }
  }

  announce(build: BuildAnnouncement): Disposable {
    for (const image of build.images) this.#used(image);
    return this.#builds.begin(build);
  }

  report(report: BuildReport): void {
    const { clock } = this.#parts;
    this.#history.addReport(report, clock.now());
    let adopted = false;
    for (const { outcome, ...image } of report.bases) {
      if (outcome === 'warm') continue;
      const request = tryParseName(image);
      const kept = this.#schedule.images.get(keyOf(image))?.wish.source;
      if (request !== undefined && (kept === undefined || kept === 'adopted'))
        adopted = this.#adoption.missed(request) || adopted;
    }
    const { cache, otherCaches = [] } = report;
    for (const { location, hits } of cache === undefined ? otherCaches : [cache, ...otherCaches]) {
      this.#cacheRepositories.used(location, hits);
      this.#hits.note(location, hits);
    }
    if (adopted) this.#reconcile('change');
    this.#stateFile.changed();
    this.#events.emit({ type: 'report', report });
  }

  listen(listener: (event: WarmingEvent) => void): Disposable {
    return this.#events.listen(listener);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#cleanup.disposeAsync();
  }

  async #start(): Promise<void> {
    const { clock } = this.#parts;
    // Disposed in the reverse order: nothing new begins, what goes on ends, then it is written down.
    this.#cleanup.use(this.#clients);
    this.#cleanup.use(this.#stateFile);
    this.#cleanup.use(this.#uses);
    this.#cleanup.use(this.#hits);
    this.#cleanup.defer(() => this.#puller.settle());
    this.#cleanup.use(this.#cacheRepositories);
    this.#cleanup.use(this.#schedule);
    this.#cleanup.defer(() => this.#tending?.[Symbol.dispose]());
    await this.#parts.volume.prepareIndex();
    await this.#limitLayers(this.#configuration);
    this.#cacheRepositories.configure(this.#configuration.cacheRepositories);
    await this.#desired.read(this.#configuration);
    this.#reconcile('start');
    this.#cleanup.use(
      every(
        clock,
        () => this.#configuration.disk.intervalSeconds * 1000,
        () => this.#inBackground(() => this.#review()),
      ),
    );
  }

  #limitLayers({ concurrency: { layers, unpack } }: Configuration): Promise<void> {
    return this.#parts.volume.limitLayers({ fetched: layers, unpacked: unpack });
  }

  /** Brings the schedule up to date with all that is wished for. */
  #reconcile(reason: 'start' | 'change' | 'schedule'): void {
    if (this.#stop.signal.aborted) return;
    const wishes = this.#desired.wishes(
      this.#adoption.wishes(this.#configuration.byDefault),
      this.#cacheRepositories.wishes(),
    );
    this.#schedule.reconcile(wishes, reason);
    this.#stateFile.changed();
    this.#inBackground(() => this.#updatePins());
  }

  /** From time to time: the disk, adopted images that nobody uses, images that a person removed. */
  async #review(): Promise<void> {
    if (this.#adoption.review()) this.#reconcile('schedule');
    await this.#tend();
    const images = await this.#view.images();
    this.#schedule.review((key) => isWarm(images.get(key)));
  }

  #landed(flight: Flight, end: FlightEnd): void {
    if (end.outcome === 'pulled' || end.outcome === 'fresh') this.#view.changed();
    const source = this.#schedule.images.get(keyOf(flight.name))?.wish.source;
    const isUseless =
      'error' in end &&
      ['E_PLATFORM_NOT_FOUND', 'E_MANIFEST_NOT_FOUND'].includes(systemErrorCode(end.error) ?? '');
    if (source === 'cache-repository' && isUseless) this.#cacheRepositories.exclude(flight.request.reference);
    this.#schedule.landed(flight, end);
    if (end.outcome !== 'pulled') return;
    this.#inBackground(() => this.#updatePins());
    this.#tendSoon();
  }

  #tendSoon(): void {
    this.#tending?.[Symbol.dispose]();
    this.#tending = this.#parts.clock.after(tendDelay, () => this.#inBackground(() => this.#tend()));
  }

  async #tend(): Promise<void> {
    await this.#disk.tend();
    this.#view.changed();
    // A daemon that pulled once does not keep what that took for the rest of the day.
    if (this.#puller.flights.size === 0) (await import('../../src/os/index.ts')).releaseMemory();
  }

  async #updatePins(): Promise<void> {
    const wanted = new Set<string>();
    for (const [key, { wish }] of this.#schedule.images) if (wish.pin) wanted.add(key);
    const changed = await this.#pins.update(wanted, await this.#view.images());
    if (!changed) return;
    this.#view.changed();
    this.#stateFile.changed();
  }

  #used(image: ImageName): void {
    const request = tryParseName(image);
    if (request === undefined) return;
    this.#adoption.used(keyOf(image));
    this.#uses.count(request);
    this.#stateFile.changed();
  }

  #belonging(image: ImageName): Belonging {
    const key = keyOf(image);
    if (this.#schedule.images.has(key)) return 'kept';
    return this.#onDemand.owns(key) ? 'on-demand' : 'unmanaged';
  }

  #checkConfiguration(): WarmingStatus['checks'][number] {
    const details = [`in force since ${this.#loadedAt.toISOString()}`];
    if (this.#rejected !== undefined) details.push(`a newer version was rejected: ${this.#rejected.message}`);
    if (this.#desired.problems.length > 0)
      details.push(`Dockerfiles not used: ${this.#desired.problems.join('; ')}`);
    return { name: 'configuration', ok: true, detail: details.join('; ') };
  }

  #state(): DaemonState {
    return {
      ...this.#adoption.state(),
      requests: this.#onDemand.state(),
      samples: this.#history.samples,
      cacheRepositories: this.#cacheRepositories.state(),
      pinned: this.#pins.state(),
      node: this.#node,
    };
  }

  /** Runs work that nobody waits for. */
  #inBackground(work: () => Promise<void>): void {
    work().catch((error: unknown) => {
      if (!this.#stop.signal.aborted) this.#parts.progress.warn(messageOf(error));
    });
  }
}

function stopping(): KilnError {
  return new KilnError("the node's warmer is stopping", {
    code: 'E_WARMER_STOPPING',
    category: 'environment',
  });
}
