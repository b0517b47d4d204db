import {
  formatPlatform,
  formatReference,
  normalizePlatform,
  parsePlatform,
  parseReference,
  type Platform,
  type Reference,
} from '../../src/oci/index.ts';
import { KilnError } from '../../src/support/index.ts';
import type { ImageName } from '../../src/volume/index.ts';

/** An image in one platform, as it is asked for. */
export interface ImageRequest {
  readonly reference: Reference;
  readonly platform: Platform;
}

/** An image's name as status, history and messages write it. */
export function nameOf({ reference, platform }: ImageRequest): ImageName {
  return { reference: formatReference(reference), platform: formatPlatform(normalizePlatform(platform)) };
}

/** An image as a build names it; undefined for a name that nothing can have. */
export function tryParseName({ reference, platform }: ImageName): ImageRequest | undefined {
  try {
    return { reference: parseReference(reference), platform: parsePlatform(platform) };
  } catch (error) {
    if (error instanceof KilnError) return undefined;
    throw error;
  }
}

/** One text for each image and platform. */
export function keyOf({ reference, platform }: ImageName): string {
  return `${reference} ${platform}`;
}
