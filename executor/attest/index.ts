import { randomUUID } from 'node:crypto';
import { formatPlatform, type Reference } from '../../src/oci/index.ts';
import type { Progress } from '../../src/support/index.ts';
import type { AttestOptions } from '../attest-flags.ts';
import type { BuiltImage } from '../image.ts';
import { type Attested, attestationManifest } from './attestation.ts';
import { findPackages } from './inventory.ts';
import { provenance, type ProvenanceFacts, purlOf } from './provenance.ts';
import { spdxDocument } from './spdx.ts';

/** A build that came to its end, and where its image goes. */
export interface AttestationFacts extends Omit<ProvenanceFacts, 'finished' | 'invocation'> {
  readonly destinations: readonly Reference[];
}

/**
 * What was asked to be said of an image, as a manifest that stands beside it in an index; see docs/attestations.md.
 *
 * @throws what reading a layer throws.
 */
export async function attest(
  facts: AttestationFacts,
  options: AttestOptions,
  progress: Progress,
  signal: AbortSignal,
): Promise<BuiltImage> {
  const { image, destinations, sourceDate } = facts;
  const { platform, digest } = image.descriptor;
  const names = destinations.map((reference) =>
    purlOf(reference, platform === undefined ? undefined : formatPlatform(platform)),
  );
  const statements: Attested[] = [];
  if (options.sbom) {
    const { created } = JSON.parse(Buffer.from(image.configBytes).toString('utf8')) as { created: string };
    const inventory = await findPackages(
      image.layers.map(({ layer }) => layer),
      signal,
    );
    for (const omission of inventory.omissions)
      progress.warn(`the bill of materials is not complete: ${omission}`);
    const described = { name: names[0] ?? 'image', digest, created: new Date(created) };
    statements.push({
      predicateType: 'https://spdx.dev/Document',
      predicate: spdxDocument(described, inventory),
    });
  }
  if (options.provenance !== undefined) {
    // With a source date it is told by the image alone, so that the same build says the same.
    const invocation = sourceDate === undefined ? randomUUID() : digest;
    const predicate = provenance({ ...facts, finished: new Date(), invocation }, options.provenance);
    statements.push({ predicateType: 'https://slsa.dev/provenance/v1', predicate });
  }
  return attestationManifest(image, names, statements);
}
