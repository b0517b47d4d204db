import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { BuildReport } from '../../src/volume/index.ts';
import type { ImagePhase, PullRecord, Warming, WarmingEvent, WarmingStatus } from './types.ts';

/** Registries that have a label of their own; what comes after counts as `other`, so that nobody can make series at will. */
const maximumRegistries = 50;

const phases: readonly ImagePhase[] = ['pending', 'checking', 'pulling', 'warm', 'failed'];
const pullOutcomes: readonly PullRecord['outcome'][] = [
  'pulled',
  'fresh',
  'failed',
  'rate_limited',
  'skipped_disk',
];
const skipReasons = ['in_use', 'pinned', 'too_young'] as const;

/** prom-client's own names that break the rules of Prometheus for names: gauges that end in `_total`. */
const misnamed = [
  'nodejs_active_handles_total',
  'nodejs_active_requests_total',
  'nodejs_active_resources_total',
];

/**
 * What Prometheus reads (docs/metrics.md): counters from the daemon's events, gauges from its status at the time of the
 * scrape. No label holds the name of an image or a build.
 */
export class Metrics implements Disposable {
  readonly registry = new Registry();
  readonly #listening: Disposable;
  readonly #leases: () => number;
  readonly #registries = new Set<string>();

  readonly #pulls = this.#counter(
    'kiln_warm_pulls_total',
    'Attempts to bring or refresh an image, by outcome.',
    ['registry', 'result'],
  );
  readonly #pullBytes = this.#counter(
    'kiln_warm_pull_bytes_total',
    'Bytes of layers fetched from registries.',
    ['registry'],
  );
  readonly #pullSeconds = new Histogram({
    name: 'kiln_warm_pull_duration_seconds',
    help: 'Time to fetch and unpack an image.',
    buckets: [0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800],
    registers: [this.registry],
  });
  readonly #requests = this.#counter(
    'kiln_ensure_requests_total',
    "Images that builds asked for at the node's socket.",
    ['result'],
  );
  readonly #cache = this.#counter(
    'kiln_cache_requests_total',
    'What builds reported: base images on the volume, and steps in their layer cache.',
    ['store', 'result'],
  );
  readonly #builds = this.#counter('kiln_builds_total', 'Builds that reported their end.', ['result']);
  readonly #prunes = this.#counter('kiln_gc_runs_total', 'Times that the volume was pruned.', ['result']);
  readonly #reclaimed = this.#counter('kiln_gc_reclaimed_bytes_total', 'Bytes that pruning gave back.');
  readonly #skipped = this.#counter('kiln_gc_skipped_total', 'What pruning left alone, by reason.', [
    'reason',
  ]);
  readonly #changes = this.#counter(
    'kiln_warm_images_changed_total',
    'Images adopted into warming, and dropped from it.',
    ['change'],
  );
  readonly #reloads = this.#counter('kiln_config_reloads_total', 'New versions of the configuration.', [
    'result',
  ]);

  readonly #info = this.#gauge('kiln_build_info', 'The version of the daemon; always 1.', [
    'version',
    'node_version',
  ]);
  readonly #ready = this.#gauge(
    'kiln_ready',
    '1 when every configured image is warm, or was tried for long enough.',
  );
  readonly #reloaded = this.#gauge(
    'kiln_config_last_reload_successful',
    '0 when a newer configuration was rejected.',
  );
  readonly #reloadedAt = this.#gauge(
    'kiln_config_last_reload_success_timestamp_seconds',
    'When the configuration in force was loaded.',
  );
  readonly #images = this.#gauge('kiln_warm_images', 'Images that are looked after, by state.', ['state']);
  readonly #imageBytes = this.#gauge(
    'kiln_warm_images_bytes',
    'Compressed bytes of the images on the volume, shared layers counted for each.',
  );
  readonly #oldestRefresh = this.#gauge(
    'kiln_warm_oldest_refresh_age_seconds',
    'Time since the registry last confirmed the image whose confirmation is oldest, of those that are refreshed.',
  );
  readonly #used = this.#gauge('kiln_volume_used_bytes', "Bytes that the volume's own files take.");
  readonly #free = this.#gauge('kiln_volume_free_bytes', 'Bytes free on the file system of the volume.');
  readonly #size = this.#gauge('kiln_volume_size_bytes', 'Bytes of the file system of the volume.');
  readonly #leasesActive = this.#gauge(
    'kiln_leases_active',
    'Images that are held for builds at the socket now.',
  );
  readonly #buildsActive = this.#gauge(
    'kiln_builds_active',
    'Builds that run on the node now and have said so.',
  );

  constructor(warming: Warming, leases: () => number) {
    this.#leases = leases;
    collectDefaultMetrics({ register: this.registry });
    for (const name of misnamed) this.registry.removeSingleMetric(name);
    this.#zero();
    this.#listening = warming.listen((event) => this.#count(event));
  }

  get contentType(): string {
    return this.registry.contentType;
  }

  /** The text that Prometheus reads. @param status undefined when the daemon does not answer: then there are no gauges of it. */
  async text(status: WarmingStatus | undefined): Promise<string> {
    this.#measure(status);
    return this.registry.metrics();
  }

  [Symbol.dispose](): void {
    this.#listening[Symbol.dispose]();
    this.registry.clear();
  }

  #counter<Label extends string>(
    name: string,
    help: string,
    labelNames: readonly Label[] = [],
  ): Counter<Label> {
    return new Counter({ name, help, labelNames, registers: [this.registry] });
  }

  #gauge<Label extends string>(name: string, help: string, labelNames: readonly Label[] = []): Gauge<Label> {
    return new Gauge({ name, help, labelNames, registers: [this.registry] });
  }

  /** Series that are known beforehand exist from the start, so that a first event is an increase and not a beginning. */
  #zero(): void {
    for (const result of ['hit', 'pulled', 'joined', 'denied', 'error']) this.#requests.inc({ result }, 0);
    for (const result of ['hit', 'ensured', 'miss']) this.#cache.inc({ store: 'base', result }, 0);
    for (const result of ['hit', 'miss']) this.#cache.inc({ store: 'layer', result }, 0);
    for (const result of ['succeeded', 'failed']) this.#builds.inc({ result }, 0);
    for (const result of ['done', 'failed']) this.#prunes.inc({ result }, 0);
    for (const reason of skipReasons) this.#skipped.inc({ reason }, 0);
    for (const change of ['adopted', 'dropped']) this.#changes.inc({ change }, 0);
    for (const result of ['accepted', 'rejected']) this.#reloads.inc({ result }, 0);
  }

  #count(event: WarmingEvent): void {
    switch (event.type) {
      case 'pull':
        return this.#countPull(event.record);
      case 'request':
        return this.#requests.inc({ result: event.result });
      case 'report':
        return this.#countReport(event.report);
      case 'prune':
        this.#prunes.inc({ result: event.result });
        this.#reclaimed.inc(event.reclaimedBytes);
        for (const reason of skipReasons) this.#skipped.inc({ reason }, event.skipped[reason]);
        return;
      case 'reload':
        return this.#reloads.inc({ result: event.accepted ? 'accepted' : 'rejected' });
      case 'adopted':
      case 'dropped':
        return this.#changes.inc({ change: event.type });
    }
  }

  #countPull({ registry: host, outcome, bytes, seconds }: PullRecord): void {
    const registry = this.#registryLabel(host);
    this.#pulls.inc({ registry, result: outcome });
    this.#pullBytes.inc({ registry }, bytes);
    if (outcome === 'pulled') this.#pullSeconds.observe(seconds);
  }

  #countReport({ succeeded, bases, steps }: BuildReport): void {
    this.#builds.inc({ result: succeeded ? 'succeeded' : 'failed' });
    for (const { outcome } of bases)
      this.#cache.inc({
        store: 'base',
        result: outcome === 'warm' ? 'hit' : outcome === 'cold' ? 'miss' : outcome,
      });
    this.#cache.inc({ store: 'layer', result: 'hit' }, steps.cached);
    this.#cache.inc({ store: 'layer', result: 'miss' }, steps.ran);
  }

  #registryLabel(host: string): string {
    if (this.#registries.has(host)) return host;
    if (this.#registries.size >= maximumRegistries) return 'other';
    this.#registries.add(host);
    for (const result of pullOutcomes) this.#pulls.inc({ registry: host, result }, 0);
    return host;
  }

  #measure(status: WarmingStatus | undefined): void {
    this.#leasesActive.set(this.#leases());
    this.#forget();
    if (status === undefined) return;
    const { version, ready, configuration, images, builds } = status;
    this.#info.set({ version, node_version: process.version }, 1);
    this.#ready.set(ready ? 1 : 0);
    this.#reloaded.set(configuration.rejected === undefined ? 1 : 0);
    this.#reloadedAt.set(configuration.loadedAt.getTime() / 1000);
    for (const state of phases)
      this.#images.set({ state }, images.filter(({ phase }) => phase === state).length);
    this.#imageBytes.set(images.reduce((sum, { size }) => sum + (size ?? 0), 0));
    const confirmed = images.flatMap((image) =>
      image.nextRefreshAt === undefined || image.checkedAt === undefined ? [] : [image.checkedAt.getTime()],
    );
    if (confirmed.length > 0)
      this.#oldestRefresh.set(Math.max(0, Date.now() - confirmed.reduce((a, b) => Math.min(a, b))) / 1000);
    this.#used.set(status.disk.used);
    this.#free.set(status.disk.free);
    this.#size.set(status.disk.total);
    this.#buildsActive.set(builds.length);
  }

  /** What was so at the last scrape need not be so now. */
  #forget(): void {
    for (const gauge of [this.#images, this.#info]) gauge.reset();
    for (const gauge of [
      this.#ready,
      this.#reloaded,
      this.#reloadedAt,
      this.#imageBytes,
      this.#oldestRefresh,
    ])
      gauge.remove();
    for (const gauge of [this.#used, this.#free, this.#size, this.#buildsActive]) gauge.remove();
  }
}
