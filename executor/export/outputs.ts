import { mkdir, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { formatReference } from '../../src/oci/index.ts';
import type { RegistryClient } from '../../src/registry/index.ts';
import type { Progress } from '../../src/support/index.ts';
import { type BuildOutput, isAttestation } from '../image.ts';
import type { OutputOptions } from '../options.ts';
import { writeArchive } from './archive.ts';
import { writeLayout } from './layout.ts';
import { destinationWithDigest, pushOutput } from './push.ts';

/**
 * Puts what was built wherever it was asked for, and says so.
 *
 * @returns the places, as a user would name them.
 */
export async function exportOutput(
  output: BuildOutput,
  options: OutputOptions,
  client: RegistryClient,
  progress: Progress,
  signal: AbortSignal,
): Promise<string[]> {
  const { destinations, tarPath, ociLayoutPath, digestFile } = options;
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
  if (options.push) {
    await Promise.all(destinations.map((destination) => pushOutput(client, output, destination, signal)));
    places.push(...destinations.map((destination) => destinationWithDigest(destination, output)));
  }
  if (digestFile !== undefined) {
    await mkdir(dirname(digestFile), { recursive: true });
    await writeFile(digestFile, digest);
  }
  for (const place of places)
    progress.emit({ type: 'result', message: `wrote ${place}`, fields: { place, digest } });
  return places;
}
