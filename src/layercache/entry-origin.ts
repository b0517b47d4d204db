import { type ChainID, isDigest } from '../oci/index.ts';
import { type CacheKey, keyOfDescription } from './keys.ts';

/**
 * Where an entry was made, for people and for pruning. No key depends on it, and nothing in it is believed beyond what it
 * is shown or grouped by.
 */
export interface EntryOrigin {
  /** What is built again and again: the image or context, the Dockerfile and the stage. Versions of one thing have one line. */
  readonly line: string;
  /** The image that the first of its steps stands on. */
  readonly base: EntryBase;
  /**
   * What it stands on when copies with `--link` are below it, whose keys its own does not name: the step or base below these,
   * and they themselves in their order. Undefined: what its key has for its parent.
   */
  readonly ground?: EntryGround | undefined;
}

export interface EntryGround {
  readonly key: CacheKey;
  readonly links: readonly CacheKey[];
}

export interface EntryBase {
  /** As the Dockerfile names it; `scratch` for none. */
  readonly name: string;
  readonly chainID: ChainID | null;
  /** `linux/amd64`. */
  readonly platform: string;
  /** What times in its layers are limited to, in seconds since 1970; undefined for no limit. */
  readonly clampTime?: number | undefined;
  /** Paths that are in none of its layers; undefined for none. */
  readonly ignored?: readonly string[] | undefined;
}

const longestName = 1000;
/** Copies with `--link` that are named; an image has at most 127 layers. */
const mostLinks = 128;
/** Ignored paths that are named. */
const mostPaths = 100;

/** The key of a base, which the first step on it has for its parent. */
export function baseKeyOf({ chainID, platform, clampTime, ignored }: EntryBase): CacheKey {
  return keyOfDescription({ kind: 'base', chainID, platform, clampTime, ignored });
}

/** The origin as an annotation. */
export function encodeOrigin({ line, base, ground }: EntryOrigin): string {
  const { name, chainID, platform, clampTime, ignored } = base;
  return JSON.stringify({
    line: line.slice(0, longestName),
    base: { name: name.slice(0, longestName), chainID, platform, clampTime, ignored },
    ground,
  });
}

/** Reads an origin; undefined for anything else, since an entry is as good without. */
export function decodeOrigin(text: unknown): EntryOrigin | undefined {
  let value: unknown;
  try {
    value = typeof text === 'string' ? JSON.parse(text) : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
  const { line, base, ground } = (value ?? {}) as { line?: unknown; base?: unknown; ground?: unknown };
  const { name, chainID, platform, clampTime, ignored } = (base ?? {}) as Record<string, unknown>;
  if (typeof line !== 'string' || typeof name !== 'string' || typeof platform !== 'string') return undefined;
  if (chainID !== null && !isDigest(chainID)) return undefined;
  return {
    line: line.slice(0, longestName),
    base: {
      name: name.slice(0, longestName),
      chainID: chainID as ChainID | null,
      platform: platform.slice(0, 100),
      ...(Number.isSafeInteger(clampTime) ? { clampTime: clampTime as number } : {}),
      ...(isPaths(ignored) ? { ignored } : {}),
    },
    ground: decodeGround(ground),
  };
}

function isPaths(value: unknown): value is string[] {
  return (
    Array.isArray(value) &&
    value.length <= mostPaths &&
    value.every((path) => typeof path === 'string' && path.length <= longestName)
  );
}

function decodeGround(value: unknown): EntryGround | undefined {
  const { key, links } = (value ?? {}) as { key?: unknown; links?: unknown };
  const isKey = (text: unknown): text is CacheKey => typeof text === 'string' && /^[0-9a-f]{64}$/.test(text);
  if (!isKey(key) || !Array.isArray(links) || links.length > mostLinks || !links.every(isKey))
    return undefined;
  return { key, links };
}
