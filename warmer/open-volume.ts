import type { Progress } from '../src/support/index.ts';
import { Volume } from '../src/volume/index.ts';
import { volumeDirectory, type VolumeFlags } from './volume-flags.ts';

/** Opens the volume that is there, to be read. @throws EnvironmentError `E_VOLUME_NOT_FOUND`. */
export function openForReading(flags: VolumeFlags, progress?: Progress): Promise<Volume> {
  return Volume.open(volumeDirectory(flags), { access: 'read-only', progress });
}

/** Opens the volume that is there, to be changed: a mistyped path must not become an empty volume. */
export async function openForWriting(flags: VolumeFlags, progress: Progress): Promise<Volume> {
  {
    await using _isThere = await openForReading(flags);
  }
  return Volume.open(volumeDirectory(flags), { access: 'read-write', progress });
}
