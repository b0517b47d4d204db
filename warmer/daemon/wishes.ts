import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { namedImages, parseDockerfile } from '../../src/dockerfile/index.ts';
import { parseReference } from '../../src/oci/index.ts';
import { messageOf } from '../../src/support/index.ts';
import type { Configuration, ConfiguredDockerfile, WarmingRule } from './configuration.ts';
import { type ImageRequest, keyOf, nameOf } from './image-key.ts';
import type { ImageSource } from './types.ts';

/** An image that is to be kept warm, why, and how. */
export interface Wish extends WarmingRule, ImageRequest {
  readonly source: Exclude<ImageSource, 'on-demand' | 'unmanaged'>;
  readonly pin: boolean;
}

/** By key of image; where there are several reasons for an image, the first counts. */
export type Wishes = ReadonlyMap<string, Wish>;

/** Puts lists of wishes together; what comes first wins. */
export function mergeWishes(...lists: readonly (readonly Wish[])[]): Wishes {
  const wishes = new Map<string, Wish>();
  for (const wish of lists.flat()) {
    const key = keyOf(nameOf(wish));
    if (!wishes.has(key)) wishes.set(key, wish);
  }
  return wishes;
}

/** The images that a configuration names itself. */
export function configuredWishes({ images }: Configuration): Wish[] {
  return images.flatMap(({ platforms, ...image }) =>
    platforms.map((platform): Wish => ({ ...image, platform, source: 'configured' })),
  );
}

/** What a Dockerfile asks for, or why that cannot be said. */
export type DockerfileWishes = { readonly wishes: readonly Wish[] } | { readonly problem: string };

/**
 * The images that a Dockerfile names, in each of its platforms. A Dockerfile that is missing or wrong is no reason to
 * stop: it may be mounted a moment later, and all else goes on.
 */
export async function dockerfileWishes(dockerfile: ConfiguredDockerfile): Promise<DockerfileWishes> {
  const { path, platforms, buildArguments, refresh, pullSecret } = dockerfile;
  try {
    const parsed = parseDockerfile(await readFile(path, 'utf8'), basename(path));
    const wishes = platforms.flatMap((platform) =>
      namedImages(parsed, { buildArguments, platform }).map((named): Wish => {
        const reference = parseReference(named.name);
        return { reference, platform: named.platform, source: 'dockerfile', pin: false, refresh, pullSecret };
      }),
    );
    return { wishes };
  } catch (error) {
    return { problem: `${path}: ${messageOf(error)}` };
  }
}
