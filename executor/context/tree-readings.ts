import type { SourceQuery } from './sources.ts';
import { readTree, type TreeDigestOptions, type TreeReading } from './tree-digest.ts';

/** Reads of trees that several plans of one build ask for: each is done once. */
export class TreeReadings {
  readonly #readings = new Map<string, Promise<TreeReading>>();

  /** As {@link readTree}. What is wrong is told to all who ask. */
  read(query: SourceQuery, options: TreeDigestOptions): Promise<TreeReading> {
    const { owners, modes } = options;
    const key = JSON.stringify([query, owners, modes]);
    const known = this.#readings.get(key);
    if (known !== undefined) return known;
    const reading = readTree(query, options);
    this.#readings.set(key, reading);
    return reading;
  }
}
