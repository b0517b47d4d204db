import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Digest, Reference } from '../../src/oci/index.ts';
import type { RegistryClient } from '../../src/registry/index.ts';
import { type DigestFiles, isAddress } from '../options.ts';

/** What is told of an image that has been exported. */
export interface Exported {
  readonly digest: Digest;
  readonly destinations: readonly Reference[];
  /** False when it was built and not pushed. */
  readonly isPushed: boolean;
}

/**
 * Writes the files that tell other programs what was pushed, byte for byte as kaniko does: the digest alone without a
 * newline, names with one line for each destination, in their order.
 *
 * @throws what writing a file throws; KilnError when an address does not take it.
 */
export async function writeDigestFiles(
  files: DigestFiles,
  { digest, destinations, isPushed }: Exported,
  client: RegistryClient,
  signal?: AbortSignal,
): Promise<void> {
  const lines = (name: (reference: Reference) => string): string =>
    destinations.map((reference) => `${name(reference)}@${digest}\n`).join('');
  const texts: [string | undefined, string][] = [
    [files.digest, digest],
    [files.named, lines(repositoryName)],
    [files.tagged, lines(taggedName)],
  ];
  if (files.builderOutput !== undefined && files.builderOutput !== '' && isPushed) {
    const pushed = destinations.map((reference) => JSON.stringify({ name: taggedName(reference), digest }));
    texts.push([join(files.builderOutput, 'images'), pushed.map((line) => `${line}\n`).join('')]);
  }
  for (const [path, text] of texts) if (path !== undefined) await put(path, text, client, signal);
}

async function put(path: string, text: string, client: RegistryClient, signal?: AbortSignal): Promise<void> {
  if (isAddress(path)) return client.writeWebFile({ url: new URL(path), text, signal });
  await mkdir(dirname(path), { recursive: true });
  // Not renamed into its place: it may be a file that was mounted, such as /dev/termination-log.
  await writeFile(path, text);
}

/** As kaniko has it, Docker Hub by its long name. */
function repositoryName({ registry, repository }: Reference): string {
  return `${registry === 'docker.io' ? 'index.docker.io' : registry}/${repository}`;
}

function taggedName(reference: Reference): string {
  return `${repositoryName(reference)}${reference.tag === undefined ? '' : `:${reference.tag}`}`;
}
