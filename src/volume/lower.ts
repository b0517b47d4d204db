import { type OverlayMark, ownOverlayMark, type UnpackResult } from '../layer/index.ts';
import { hasId, hasSingleId, idMap } from '../os/index.ts';

/** What the seal of an unpacked layer says about where it can be an overlay's lower directory. */
export interface LowerFacts {
  /** Whose overlay mounts see its deletions. */
  readonly overlayMarks: readonly OverlayMark[];
  /** The largest user or group id that a file of it belongs to. */
  readonly maximumId: number;
  /**
   * Directories that are there only for what is in them (latin1, relative, `''` the root); undefined in a seal of an
   * earlier version.
   */
  readonly implied: readonly string[] | undefined;
}

/** Layers unpacked before there were such facts. */
const oldest: LowerFacts = { overlayMarks: ['trusted'], maximumId: 0, implied: undefined };

export function lowerFacts({ overlayMarks, maximumId, implied }: UnpackResult): LowerFacts {
  return { overlayMarks, maximumId, implied };
}

/** Reads the facts out of a seal, whoever wrote it. */
export function parseLowerFacts(seal: object): LowerFacts {
  const { overlayMarks, maximumId, implied } = seal as Partial<Record<keyof LowerFacts, unknown>>;
  if (!Array.isArray(overlayMarks) || typeof maximumId !== 'number') return oldest;
  return {
    overlayMarks: (['trusted', 'user'] as const).filter((mark) => overlayMarks.includes(mark)),
    maximumId,
    implied:
      Array.isArray(implied) && implied.every((path) => typeof path === 'string') ? implied : undefined,
  };
}

/**
 * Whether this process can mount the layer and see what its image says: deletions have the attributes that its mounts
 * read, it is known which directories would hide the attributes of others, and all owners have ids here. One that it cannot is unpacked again, elsewhere.
 */
export function servesHere(facts: LowerFacts): boolean {
  return facts.implied !== undefined && facts.overlayMarks.includes(ownOverlayMark()) && hasOwnersHere(facts);
}

/** Whether all owners of the layer's files have ids here. */
export function hasOwnersHere({ maximumId }: Pick<LowerFacts, 'maximumId'>): boolean {
  return hasSingleId() || (hasId(idMap('uid'), maximumId) && hasId(idMap('gid'), maximumId));
}
