import type { CacheTrust } from '../src/layercache/index.ts';
import { EnvironmentError, type Progress } from '../src/support/index.ts';

/** Builds that sign with a key which they do not believe themselves make every step anew. */
export function warnOfSigner({ signer, trusted }: CacheTrust, progress: Progress): void {
  if (signer?.keyID !== undefined && trusted?.has(signer.keyID) === false)
    progress.warn(
      `the key of --cache-sign-key (${signer.keyID}) is none of --cache-verify-key: what is stored will not be used`,
    );
}

/**
 * Where steps run in the executor's own container they can reach what it can.
 *
 * @throws EnvironmentError when the program that signs would be the image's.
 */
export function requireSafeSigner({ signer }: CacheTrust, progress: Progress): void {
  if (signer === undefined) return;
  if (signer.runsProgram)
    throw new EnvironmentError(
      "where steps run in place, no command can sign: its files would be the image's",
      {
        code: 'E_CACHE_SIGNING',
        remedy: 'Give a key in a file or env:NAME, or build where --isolation overlay works.',
      },
    );
  progress.warn('steps that run in place can read the key of --cache-sign-key; see docs/cache-trust.md');
}
