import { formatReference, type Reference } from '../../src/oci/index.ts';
import type { RegistryClient } from '../../src/registry/index.ts';
import type { Progress } from '../../src/support/index.ts';
import { type BuildOutput, isAttestation } from '../image.ts';
import type { ExportPlaces } from '../options.ts';
import { writeArchive } from './archive.ts';
import { writeDigestFiles } from './digest-files.ts';
import { writeLayout } from './layout.ts';
import { pushAll, pushError, type PushOptions } from './push.ts';
import { type Pushable, pushableOf } from './pushable.ts';

/**
 * Puts what was built wherever it was asked for, and says so.
 *
 * @returns the places, as a user would name them.
 */
export async function exportOutput(
  output: BuildOutput,
  options: ExportPlaces,
  client: RegistryClient,
  progress: Progress,
  signal: AbortSignal,
): Promise<string[]> {
  const { destinations, tarPath, ociLayoutPath, push } = options;
  const { digest } = output.descriptor;
  const places: string[] = [];
  if (tarPath !== undefined) {
    // Attestations are left out: what reads such a file knows none.
    const [image, ...others] = output.images.filter((built) => !isAttestation(built));
    if (image === undefined || others.length > 0) throw new Error('a tar file holds one image');
    await writeArchive(image, tarPath, destinations.map(formatReference), signal);
    places.push(tarPath);
  }
  if (ociLayoutPath !== undefined) {
    const name = destinations[0]?.tag ?? 'latest';
    await writeLayout(output, ociLayoutPath, name, signal);
    places.push(`oci:${ociLayoutPath}:${name}`);
  }
  for (const place of places) tell(progress, `wrote ${place}`, place, digest);
  if (push) {
    const { ignoreImmutableTags } = options;
    const pushable = pushableOf(output);
    places.push(...(await pushTo(destinations, pushable, client, { ignoreImmutableTags, progress }, signal)));
  }
  await writeDigestFiles(options.digestFiles, { digest, destinations, isPushed: push }, client, signal);
  return places;
}

/**
 * Pushes to all destinations, and says what became of each.
 *
 * @returns the names with digests of what was pushed.
 * @throws KilnError of the destination that failed, or `E_PUSH_INCOMPLETE` when there are several.
 */
export async function pushTo(
  destinations: readonly Reference[],
  pushable: Pushable,
  client: RegistryClient,
  options: PushOptions,
  signal: AbortSignal,
): Promise<string[]> {
  const { digest } = pushable.root.descriptor;
  const outcomes = await pushAll(client, pushable, destinations, options, signal);
  const places = outcomes
    .filter(({ kind }) => kind === 'pushed')
    .map(({ destination: { registry, repository } }) => formatReference({ registry, repository, digest }));
  for (const place of new Set(places)) tell(options.progress, `wrote ${place}`, place, digest);
  const error = pushError(outcomes);
  if (error !== undefined) throw error;
  return places;
}

function tell(progress: Progress, message: string, place: string, digest: string): void {
  progress.emit({ type: 'result', message, fields: { place, digest } });
}
