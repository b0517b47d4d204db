import {
  decodeManifest,
  type Descriptor,
  formatReference,
  type Image,
  maximumDocumentSize,
  parseReference,
  type Reference,
} from '../oci/index.ts';
import { type OciLayout, platformKey, refNameAnnotation } from './oci-layout.ts';
import { annotations, isDamage, readImage } from './stored-image.ts';

/** An image of `index.json` and what it is made of; the documents as far as they can be read. */
export interface Listed {
  readonly name: string;
  readonly reference: Reference | undefined;
  readonly descriptor: Descriptor;
  readonly image: Image | undefined;
  /** Of the configuration, when only the manifest can be read. */
  readonly config: Descriptor | undefined;
}

/** All images that have a name. */
export async function listImages(layout: OciLayout): Promise<Listed[]> {
  const listed: Listed[] = [];
  for (const descriptor of await layout.readIndex()) {
    const name = descriptor.annotations?.[refNameAnnotation];
    if (name === undefined) continue;
    const image = await unlessDamaged(readImage(layout, descriptor));
    const config = image === undefined ? await configOf(layout, descriptor) : undefined;
    listed.push({ name, reference: referenceOf(name), descriptor, image, config });
  }
  return listed;
}

/**
 * Tells whether `index.json` has an image still: the same entry, not one that was pruned and has been pulled again since.
 * All that such an entry refers to has been there all the time, unless it is damaged.
 */
export async function loadListed(layout: OciLayout): Promise<(listed: Listed) => boolean> {
  const entries = new Set((await layout.readIndex()).map(identityOf));
  return ({ descriptor }) => entries.has(identityOf(descriptor));
}

function identityOf({ digest, platform, annotations: notes }: Descriptor): string {
  return [digest, notes?.[refNameAnnotation], platformKey(platform), notes?.[annotations.pulledAt]].join(' ');
}

/** The configuration's descriptor, as far as the manifest can be read. */
export async function configOf(layout: OciLayout, { digest }: Descriptor): Promise<Descriptor | undefined> {
  const bytes = await unlessDamaged(layout.blobs.read(digest, maximumDocumentSize));
  return bytes === undefined
    ? undefined
    : unlessDamaged(Promise.resolve().then(() => decodeManifest(bytes, digest).config));
}

async function unlessDamaged<T>(reading: Promise<T>): Promise<T | undefined> {
  try {
    return await reading;
  } catch (error) {
    if (isDamage(error)) return undefined;
    throw error;
  }
}

function referenceOf(name: string): Reference | undefined {
  try {
    const reference = parseReference(name);
    return formatReference(reference) === name ? reference : undefined;
  } catch {
    return undefined; // another tool's name
  }
}
