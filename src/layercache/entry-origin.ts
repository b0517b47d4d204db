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
}

export interface EntryBase {
  /** As the Dockerfile names it; `scratch` for none. */
  readonly name: string;
  readonly chainID: ChainID | null;
  /** `linux/amd64`. */
  readonly platform: string;
}

const longestName = 1000;

/** The key of a base, which the first step on it has for its parent. */
export function baseKeyOf({ chainID, platform }: EntryBase): CacheKey {
  return keyOfDescription({ kind: 'base', chainID, platform });
}

/** The origin as an annotation. */
export function encodeOrigin({ line, base }: EntryOrigin): string {
  const { name, chainID, platform } = base;
  return JSON.stringify({
    line: line.slice(0, longestName),
    base: { name: name.slice(0, longestName), chainID, platform },
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
  const { line, base } = (value ?? {}) as { line?: unknown; base?: unknown };
  const { name, chainID, platform } = (base ?? {}) as Record<string, unknown>;
  if (typeof line !== 'string' || typeof name !== 'string' || typeof platform !== 'string') return undefined;
  if (chainID !== null && !isDigest(chainID)) return undefined;
  return {
    line: line.slice(0, longestName),
    base: {
      name: name.slice(0, longestName),
      chainID: chainID as ChainID | null,
      platform: platform.slice(0, 100),
    },
  };
}
