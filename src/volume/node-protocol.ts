import type { Digest } from '../oci/index.ts';

/*
 * What the node's warmer and the builds on the node say to each other: HTTP/1.1 over the unix socket `warmer.sock` on the
 * volume, JSON documents, and one JSON object a line where an answer is streamed. Types only; both ends check what arrives.
 *
 *   POST /v1/ensure   EnsureRequest → a stream of EnsureMessage; the last one is `ready` or `error`
 *   POST /v1/builds   BuildAnnouncement → 200 and a stream that stays open: the build lasts as long as the connection
 *   POST /v1/report   BuildReport → 202
 *   GET  /v1/status   → the daemon's status as JSON
 *
 * After `ready` the layers are leased by the warmer until the client closes the connection, so the client takes leases of
 * its own first, and no prune can come between. Errors before a stream begins are `{error: ErrorDocument}` with status 400
 * (malformed), 403 (the allow-list refuses it), 413 (too large), 429 (too many at once) or 503 (shutting down, no space).
 */

export const nodeSocketName = 'warmer.sock';

/** Largest request body that the warmer reads, in bytes. */
export const maximumRequestSize = 1024 * 1024;

/** Longest line of a streamed answer, in bytes. */
export const maximumMessageSize = 2 * 1024 * 1024;

/** Media type of streamed answers. */
export const streamMediaType = 'application/x-ndjson';

export interface EnsureRequest {
  /** In full, as `formatReference` writes it. */
  readonly reference: string;
  /** `os/architecture[/variant]`. */
  readonly platform: string;
  /** Random name of the build that asks; the same in all its requests. */
  readonly build: string;
}

export type EnsureMessage =
  | {
      /**
       * Sent once, as soon as it is known what the reference names, so that a build can plan and look up its steps while
       * the layers are on their way. Left out when nothing has to be fetched, and when the documents are large.
       */
      readonly type: 'image';
      /** Manifest and configuration in base64. */
      readonly manifest: string;
      readonly config: string;
    }
  | {
      readonly type: 'progress';
      /** Bytes of layers fetched so far, of all that are fetched. */
      readonly bytes: number;
      readonly total: number;
    }
  | {
      readonly type: 'ready';
      /** Of the manifest. */
      readonly digest: Digest;
      /** `warm`: nothing had to be fetched; `joined`: another build or the schedule was fetching it already. */
      readonly outcome: 'warm' | 'pulled' | 'joined';
    }
  | { readonly type: 'error'; readonly error: ErrorDocument };

/** An error as it goes over the socket. */
export interface ErrorDocument {
  readonly code: `E_${string}`;
  readonly category: 'build' | 'usage' | 'environment' | 'registry';
  readonly message: string;
  readonly remedy?: string;
}

export interface ImageName {
  readonly reference: string;
  readonly platform: string;
}

/** Said when a build begins to use images of the volume. */
export interface BuildAnnouncement {
  readonly build: string;
  /** What is built, for people: the first destination, or the context. */
  readonly label: string;
  readonly images: readonly ImageName[];
}

/** Said when a build has ended. */
export interface BuildReport {
  readonly build: string;
  readonly succeeded: boolean;
  readonly seconds: number;
  readonly bases: readonly (ImageName & {
    /** `warm`: on the volume; `ensured`: the warmer fetched it for the build; `cold`: the build fetched it for itself. */
    readonly outcome: 'warm' | 'ensured' | 'cold';
  })[];
  readonly steps: { readonly cached: number; readonly ran: number };
  /** The cache repository that was asked, and the keys that hit, so that last uses can be recorded. */
  readonly cache?: CacheHits;
  /** Further ones that were asked too. */
  readonly otherCaches?: readonly CacheHits[];
}

/** What a build took from one cache. */
export interface CacheHits {
  readonly location: string;
  readonly hits: readonly string[];
}

/** What builds read of the daemon's status; the whole of it is `WarmingStatus`. */
export interface NodeStatus {
  /** True when every configured image is warm, or has been tried for long enough. */
  readonly ready: boolean;
  readonly checks: readonly { readonly name: string; readonly ok: boolean; readonly detail: string }[];
}
