import { createHash } from 'node:crypto';
import { type CanonicalValue, KilnError } from '../support/index.ts';
import { decodeArtifact } from './artifact.ts';
import { decodeOrigin, encodeOrigin, type EntryOrigin } from './entry-origin.ts';
import type { Artifact, EntryStore } from './entry-store.ts';
import { type CacheKey, keyOfDescription, keySchema } from './keys.ts';

/**
 * What a build remembers of itself for the next one of the same thing, which then can say why a step missed: the objects of
 * its keys, under one tag. It is read only by a build that misses, beside the step that runs.
 */
export interface LastBuild {
  readonly at: Date;
  readonly steps: readonly RememberedStep[];
}

export interface RememberedStep {
  readonly key: CacheKey;
  readonly description: CanonicalValue;
  readonly instruction: string;
  readonly origin: EntryOrigin | undefined;
}

const lastBuildType = 'application/vnd.kiln.cache.last-build.v1+json';
const tagPattern = new RegExp(`^${keySchema}-last-[0-9a-f]{32}$`);
const maximumRecord = 4 * 1024 * 1024;

/** @param name of what is built: the image or context, and the Dockerfile. */
export function lastBuildTag(name: string): string {
  return `${keySchema}-last-${createHash('sha256').update(name).digest('hex').slice(0, 32)}`;
}

export function isLastBuildTag(tag: string): boolean {
  return tagPattern.test(tag);
}

/** A record as it is stored; undefined when it would be larger than is read. */
export function encodeLastBuild(tag: string, { at, steps }: LastBuild): Artifact | undefined {
  const document = {
    version: 1,
    at: at.toISOString(),
    steps: steps.map(({ origin, ...step }) => ({
      ...step,
      ...(origin === undefined ? {} : { origin: encodeOrigin(origin) }),
    })),
  };
  const content = Buffer.from(JSON.stringify(document));
  return content.length > maximumRecord ? undefined : { tag, type: lastBuildType, content };
}

/** Reads a record; undefined when there is none. @throws KilnError `E_CACHE_CORRUPT`, RegistryError. */
export async function readLastBuild(
  store: Pick<EntryStore, 'readManifest' | 'readBlob'>,
  tag: string,
  signal?: AbortSignal,
): Promise<LastBuild | undefined> {
  const found = await store.readManifest(tag, signal);
  if (found === undefined) return undefined;
  const what = `the record of the last build ${tag}`;
  const blob = decodeArtifact(found.bytes, lastBuildType, what);
  const bytes = await store.readBlob(blob, maximumRecord, signal);
  try {
    return decode(JSON.parse(Buffer.from(bytes).toString('utf8')));
  } catch (cause) {
    throw new KilnError(`${what} cannot be understood`, {
      code: 'E_CACHE_CORRUPT',
      category: 'registry',
      cause,
    });
  }
}

/** Steps whose object does not prove their key are left out. */
function decode(value: unknown): LastBuild {
  const { at, steps } = value as { at?: unknown; steps?: unknown };
  const date = new Date(String(at));
  if (!Array.isArray(steps) || Number.isNaN(date.getTime())) throw new SyntaxError('members are missing');
  return {
    at: date,
    steps: (steps as Record<string, unknown>[]).flatMap((step) => {
      const { key, description, instruction, origin } = step;
      const isSound =
        typeof instruction === 'string' && keyOfDescription(description as CanonicalValue) === key;
      if (!isSound) return [];
      return [
        {
          key: key as CacheKey,
          description: description as CanonicalValue,
          instruction,
          origin: decodeOrigin(origin),
        },
      ];
    }),
  };
}
