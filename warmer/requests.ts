import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { namedImages, parseDockerfile } from '../src/dockerfile/index.ts';
import {
  formatPlatform,
  formatReference,
  parseReference,
  type Platform,
  type Reference,
} from '../src/oci/index.ts';
import { systemErrorCode, UsageError } from '../src/support/index.ts';

/** One image to be kept warm. */
export interface WarmRequest {
  readonly reference: Reference;
  readonly platform: Platform;
}

export interface RequestSources {
  readonly images: readonly string[];
  /** Files; every image that any of their stages names is warmed. */
  readonly dockerfiles: readonly string[];
  readonly buildArguments: ReadonlyMap<string, string>;
  readonly platforms: readonly Platform[];
}

/**
 * Every image that is asked for, once.
 *
 * @throws UsageError for names that are no references and Dockerfiles that cannot be read; BuildError for what is wrong in one.
 */
export async function collectRequests(sources: RequestSources): Promise<WarmRequest[]> {
  const requests = new Map<string, WarmRequest>();
  const add = (name: string, platform: Platform): void => {
    const reference = parseReference(name);
    requests.set(`${formatReference(reference)} ${formatPlatform(platform)}`, { reference, platform });
  };
  for (const platform of sources.platforms) {
    for (const name of sources.images) add(name, platform);
    for (const path of sources.dockerfiles) {
      const dockerfile = parseDockerfile(await readDockerfile(path), basename(path));
      const named = namedImages(dockerfile, { buildArguments: sources.buildArguments, platform });
      for (const image of named) add(image.name, image.platform);
    }
  }
  return [...requests.values()];
}

async function readDockerfile(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new UsageError(
      `the Dockerfile ${path} cannot be read (${systemErrorCode(error) ?? 'unknown error'})`,
      {
        code: 'E_DOCKERFILE_NOT_FOUND',
        cause: error,
        remedy: 'Check the path given with --dockerfile.',
      },
    );
  }
}
