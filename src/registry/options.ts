import type { Progress, TextFiles, ProcessEnvironment } from '../support/index.ts';
import type { CredentialHelperName } from './auth/default-keychain.ts';
import type { Throttle } from './transfer/throttle.ts';

/** How one registry is reached. */
export interface RegistrySettings {
  /**
   * It may be spoken to without encryption: HTTPS is tried first, with any certificate, then plain HTTP. Registries of this
   * machine (`localhost`, `127.0.0.0/8`, `[::1]`) always may.
   */
  readonly insecure?: boolean;
  /** Any certificate is accepted. */
  readonly skipTlsVerify?: boolean;
  /** File of PEM certificates that its certificate may be signed by, beside those that are trusted anyway. */
  readonly certificate?: string;
  /** Files (PEM) by which we identify ourselves. */
  readonly clientCertificate?: { readonly certificate: string; readonly key: string };
  /**
   * Registries that are asked for images in its place, in this order: `host[:port][/path]`, with `http://` before it for
   * plain HTTP. With a path, `mirror.example/hub` has `library/debian` as `hub/library/debian`.
   */
  readonly mirrors?: readonly string[];
  /** Ask the registry itself when no mirror has the image. Default true. */
  readonly fallback?: boolean;
}

/** How a {@link RegistryClient} reaches registries. What is left out has the default that suits most. */
export interface RegistryOptions {
  /** By host as in references; Docker Hub is `docker.io`. */
  readonly registries?: ReadonlyMap<string, RegistrySettings>;
  /** As {@link RegistrySettings.insecure}, for every registry that is pushed to and for the layer cache. */
  readonly insecure?: boolean;
  /** As {@link RegistrySettings.insecure}, for every registry that images are pulled from. */
  readonly insecurePull?: boolean;
  /** Accept any certificate. */
  readonly skipTlsVerify?: boolean;
  /** Accept any certificate of registries that images are pulled from. */
  readonly skipTlsVerifyPull?: boolean;
  /** Where proxies are named (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`), and credentials may be; default `process.env`. */
  readonly environment?: ProcessEnvironment;
  /**
   * Where Docker's config.json lies, or a Secret as Kubernetes mounts it (`.dockerconfigjson`), or the file itself; default:
   * the places that Docker and Podman look at.
   */
  readonly dockerConfigDirectory?: string;
  /** What such files are read with. */
  readonly files?: TextFiles;
  /** Identities of this machine, pod or job that may be used when no file has credentials; default: all. */
  readonly credentialHelpers?: readonly CredentialHelperName[];
  /** How often requests of a pull are sent again when they failed for a passing reason; default 5. */
  readonly pullRetries?: number;
  /** The same for pushes and the layer cache; and how often an upload that got no further is tried again. Default 5. */
  readonly pushRetries?: number;
  /**
   * Longest that is waited before a request that a registry refused for now (429, 5xx) is sent again, in milliseconds;
   * when it would be longer the caller hears of the refusal. Default a minute.
   */
  readonly longestWait?: number;
  /** Blobs on their way at the same time, in each direction; default 8. */
  readonly concurrency?: number;
  /** Bytes a second of all blobs together, in both directions; default: no limit. */
  readonly bytesPerSecond?: number;
  /** A limit that several clients share, in place of one of its own. */
  readonly throttle?: Throttle | undefined;
  /**
   * Bytes of one request of an upload, at most. Default: blobs go whole, which is fastest, and in chunks only where
   * something on the way does not let them through.
   */
  readonly chunkSize?: number;
  readonly progress?: Progress;
}
