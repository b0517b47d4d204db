import {
  formatPlatform,
  formatReference,
  normalizePlatform,
  type Platform,
  type Reference,
} from '../../src/oci/index.ts';
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

/** One text for each image and platform. */
export function keyOf({ reference, platform }: ImageName): string {
  return `${reference} ${platform}`;
}
