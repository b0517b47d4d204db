import type { CanonicalValue } from '../support/index.ts';
import { baseBelow, isComparable, type KeyedStep } from './differences.ts';

/** A stored step, and when it was made, which decides between two that are as near. */
export interface StoredStep extends KeyedStep {
  readonly created: Date;
}

/** Beyond this two steps have so little in common that a comparison would explain nothing. */
const farthest = 12;

/**
 * The stored step that is most like one that missed, so that what differs between them is what the user changed. Of two that
 * are as near the newer one.
 *
 * @param ground what the step before it was found nearest to: steps of one chain are compared with one chain.
 * @param present the instructions of its stage: a stored one that is still there is not what another one was before.
 */
export function nearestStep<Stored extends StoredStep>(
  step: KeyedStep,
  stored: readonly Stored[],
  ground: KeyedStep | undefined,
  present: ReadonlySet<string> = new Set(),
): Stored | undefined {
  let nearest: Stored | undefined;
  let least = Infinity;
  for (const candidate of stored) {
    if (candidate.instruction !== step.instruction && present.has(candidate.instruction)) continue;
    const distance = distanceOf(step, candidate, ground);
    if (distance > farthest) continue;
    if (
      distance > least ||
      (distance === least && nearest !== undefined && candidate.created <= nearest.created)
    )
      continue;
    least = distance;
    nearest = candidate;
  }
  return nearest;
}

type Fields = Readonly<Record<string, CanonicalValue | undefined>>;

function distanceOf(step: KeyedStep, candidate: KeyedStep, ground: KeyedStep | undefined): number {
  const now = step.description as Fields;
  const before = candidate.description as Fields;
  if (!isComparable(before)) return Infinity;
  if (now.kind !== before.kind || now.keepOwners !== before.keepOwners) return Infinity;
  const isInPlace = now.parent === before.parent || before.parent === ground?.key;
  let distance = step.origin?.line !== undefined && step.origin.line === candidate.origin?.line ? 0 : 1;
  if (now.parent !== before.parent)
    distance += before.parent === ground?.key ? 0.5 : bothOnBases(step, candidate) ? 1 : 3;
  // A step in the same place is what the instruction was before, however it read.
  const unlike = unlikeness(step.instruction, candidate.instruction);
  distance += isInPlace ? unlike * 8 : unlike * 20;
  distance += Math.min(3, changedMembers(now.env as Fields, before.env as Fields));
  for (const [field, weight] of weights)
    if (JSON.stringify(now[field]) !== JSON.stringify(before[field])) distance += weight;
  return distance;
}

const weights: readonly (readonly [field: string, weight: number])[] = [
  ['argv', 1],
  ['path', 1],
  ['destination', 1],
  ['patterns', 1],
  ['user', 1],
  ['workingDirectory', 1],
  ['chown', 1],
  ['chmod', 1],
  ['parents', 1],
  ['excludes', 1],
  ['files', 1],
  ['content', 1],
  ['source', 1],
  ['unpackArchives', 1],
];

function bothOnBases(step: KeyedStep, candidate: KeyedStep): boolean {
  return baseBelow(step) !== undefined && baseBelow(candidate) !== undefined;
}

/** From 0 for the same text to 1 for two without a word in common. */
function unlikeness(a: string, b: string): number {
  if (a === b) return 0;
  const [first, second] = [a, b].map(
    (text) => new Set(text.split(/[\s=,;&|"']+/).filter((word) => word !== '')),
  );
  if (first === undefined || second === undefined) return 1;
  const common = first.intersection(second).size;
  return 1 - common / Math.max(1, first.union(second).size);
}

function changedMembers(now: Fields | undefined, before: Fields | undefined): number {
  const names = new Set([...Object.keys(now ?? {}), ...Object.keys(before ?? {})]);
  return [...names].filter((name) => now?.[name] !== before?.[name]).length;
}
