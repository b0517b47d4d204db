import PQueue from 'p-queue';
import { type Digest, formatPlatform, formatReference } from '../src/oci/index.ts';
import type { RegistryClient } from '../src/registry/index.ts';
import { messageOf, systemErrorCode } from '../src/support/index.ts';
import type { PullResult, Volume } from '../src/volume/index.ts';
import type { WarmRequest } from './requests.ts';

export interface WarmOptions {
  /** Images at the same time. */
  readonly concurrency: number;
  /** Tags that the registry confirmed less than this many seconds ago are not asked for again. */
  readonly maxAgeSeconds: number;
  /** Unpack the layers too, so that a build starts with a mount. */
  readonly unpack: boolean;
  readonly signal: AbortSignal;
}

/** What came of one image. */
export interface WarmResult {
  readonly reference: string;
  readonly platform: string;
  /** `fresh`: it was there and is what the reference names. */
  readonly outcome: 'pulled' | 'fresh' | 'failed';
  readonly seconds: number;
  /** Bytes of layers that were fetched for it. */
  readonly bytes: number;
  readonly digest?: Digest;
  readonly error?: { readonly code: string; readonly message: string };
}

/**
 * Brings images onto the volume, several at a time; what they share is fetched once. One that fails does not stop the others.
 *
 * @param onResult called as each image is done; `cause` is given for one that failed.
 * @throws the signal's reason, when it is aborted.
 */
export async function warmImages(
  volume: Volume,
  client: RegistryClient,
  requests: readonly WarmRequest[],
  options: WarmOptions,
  onResult: (result: WarmResult, cause?: unknown) => void,
): Promise<void> {
  const queue = new PQueue({ concurrency: options.concurrency });
  await Promise.all(
    requests.map((request) =>
      queue.add(async () => {
        if (options.signal.aborted) return;
        const started = performance.now();
        const named = {
          reference: formatReference(request.reference),
          platform: formatPlatform(request.platform),
        };
        const seconds = (): number => (performance.now() - started) / 1000;
        try {
          const { image, outcome, bytes } = await warmOne(volume, client, request, options);
          onResult({ ...named, outcome, seconds: seconds(), bytes, digest: image.descriptor.digest });
        } catch (error) {
          if (options.signal.aborted) return;
          const code = systemErrorCode(error) ?? 'E_UNKNOWN';
          onResult(
            {
              ...named,
              outcome: 'failed',
              seconds: seconds(),
              bytes: 0,
              error: { code, message: messageOf(error) },
            },
            error,
          );
        }
      }),
    ),
  );
  options.signal.throwIfAborted();
}

async function warmOne(
  volume: Volume,
  client: RegistryClient,
  { reference, platform }: WarmRequest,
  { maxAgeSeconds, unpack, signal }: WarmOptions,
): Promise<PullResult> {
  const stored = maxAgeSeconds > 0 ? await volume.find(reference, platform, signal) : undefined;
  const age = stored === undefined ? Infinity : (Date.now() - stored.checkedAt.getTime()) / 1000;
  return volume.pull(client, reference, platform, { unpack, refresh: age > maxAgeSeconds, signal });
}
