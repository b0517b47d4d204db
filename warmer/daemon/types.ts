import type { Digest, Image, Platform, Reference } from '../../src/oci/index.ts';
import type { BuildAnnouncement, BuildReport } from '../../src/volume/index.ts';

/** Why an image is kept warm. */
export type ImageSource =
  'configured' | 'dockerfile' | 'cache-repository' | 'adopted' | 'on-demand' | 'unmanaged';

/** What is happening to an image now. `failed` and `stale` images may be on the volume all the same. */
export type ImagePhase = 'pending' | 'checking' | 'pulling' | 'warm' | 'failed';

/** One image that the daemon looks after, or that merely lies on the volume (`unmanaged`). */
export interface WarmingImage {
  readonly reference: string;
  readonly platform: string;
  readonly source: ImageSource;
  readonly phase: ImagePhase;
  /** Of the manifest on the volume. */
  readonly digest: Digest | undefined;
  /** Compressed bytes. */
  readonly size: number | undefined;
  readonly pinned: boolean;
  readonly pulledAt: Date | undefined;
  readonly checkedAt: Date | undefined;
  /** Undefined for a digest, which never changes, and for what is not refreshed. */
  readonly nextRefreshAt: Date | undefined;
  readonly lastUsedAt: Date | undefined;
  readonly uses: number;
  /** Failures in a row. */
  readonly failures: number;
  readonly lastError:
    | {
        readonly code: string;
        readonly message: string;
        /** What a person can do about it. */
        readonly remedy?: string | undefined;
        readonly at: Date;
      }
    | undefined;
  readonly transfer: { readonly bytes: number; readonly total: number } | undefined;
  /** Builds that announced themselves and use it now. */
  readonly usedBy: readonly string[];
}

export interface PullRecord {
  readonly reference: string;
  readonly platform: string;
  readonly registry: string;
  readonly outcome: PullOutcome;
  readonly reason: 'schedule' | 'build' | 'start' | 'change';
  readonly startedAt: Date;
  readonly seconds: number;
  /** Bytes of layers that were fetched. */
  readonly bytes: number;
  readonly error?: string;
}

export type PullOutcome = 'pulled' | 'fresh' | 'failed' | 'rate_limited' | 'skipped_disk';

/** Hits and misses of builds' bases in one interval of time. */
export interface HitRateSample {
  readonly at: Date;
  readonly hits: number;
  readonly misses: number;
}

export interface WarmingStatus {
  readonly version: string;
  readonly startedAt: Date;
  /** Every configured image is warm, or its first attempt timed out; the index is open; the volume is writable. */
  readonly ready: boolean;
  /** The checks behind `ready` and `live`, by name, for `?verbose`. */
  readonly checks: readonly { readonly name: string; readonly ok: boolean; readonly detail: string }[];
  readonly configuration: {
    readonly path: string;
    readonly loadedAt: Date;
    /** Digest of the file in force. */
    readonly digest: string;
    /** Why a newer version is not in force. */
    readonly rejected: { readonly at: Date; readonly message: string } | undefined;
  };
  readonly images: readonly WarmingImage[];
  readonly builds: readonly (BuildAnnouncement & { readonly since: Date })[];
  readonly disk: {
    /** Bytes that the volume's own files take. */
    readonly used: number;
    /** Bytes free and in all on the file system. */
    readonly free: number;
    readonly total: number;
    /** The policy's bounds in bytes, where it has them. */
    readonly high: number | undefined;
    readonly low: number | undefined;
  };
  /** Newest first, a bounded number. */
  readonly pulls: readonly PullRecord[];
  /** Oldest first, a bounded number. */
  readonly hitRate: readonly HitRateSample[];
}

/** What metrics and logs are made from. */
export type WarmingEvent =
  | { readonly type: 'pull'; readonly record: PullRecord }
  | { readonly type: 'request'; readonly result: 'hit' | 'pulled' | 'joined' | 'denied' | 'error' }
  | { readonly type: 'report'; readonly report: BuildReport }
  | {
      readonly type: 'prune';
      readonly result: 'done' | 'failed';
      readonly reclaimedBytes: number;
      readonly skipped: Readonly<Record<'in_use' | 'pinned' | 'too_young', number>>;
    }
  | { readonly type: 'reload'; readonly accepted: boolean; readonly message: string }
  | {
      readonly type: 'adopted' | 'dropped';
      readonly reference: string;
      readonly platform: string;
    };

export interface Ensured {
  readonly digest: Digest;
  readonly outcome: 'warm' | 'pulled' | 'joined';
  /** Keeps the image's layers on the volume until the build has leases of its own. */
  readonly lease: AsyncDisposable;
}

/** The heart of the daemon, as its HTTP servers see it. */
export interface Warming {
  status(): Promise<WarmingStatus>;
  /**
   * Makes an image ready for a build. However many builds ask for it, it is fetched once.
   *
   * @param signal says that this asker has gone.
   * @param onImage is called at most once, when it is known what is fetched; not for what is warm.
   * @throws KilnError `E_NOT_ALLOWED` when the allow-list refuses it, and what a pull throws.
   */
  ensure(
    reference: Reference,
    platform: Platform,
    onProgress: (bytes: number, total: number) => void,
    signal: AbortSignal,
    onImage?: (image: Pick<Image, 'manifestBytes' | 'configBytes'>) => void,
  ): Promise<Ensured>;
  /** A build has begun; disposing the result says that it has ended. */
  announce(build: BuildAnnouncement): Disposable;
  report(report: BuildReport): void;
  listen(listener: (event: WarmingEvent) => void): Disposable;
}
