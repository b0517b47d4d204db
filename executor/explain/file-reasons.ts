import {
  compareFileLists,
  decodeFileList,
  type Difference,
  type EntryStore,
  foldFileList,
  type InventoryEntry,
} from '../../src/layercache/index.ts';
import { maximumDocumentSize } from '../../src/oci/index.ts';
import { isAbortError, messageOf, printable, type Progress } from '../../src/support/index.ts';
import type { StoredStep } from '../../src/layercache/index.ts';
import type { StepExplanation } from './explanation.ts';

/** A stored step, and where it says what a copy took. */
export interface StoredEntry extends StoredStep {
  readonly store: EntryStore;
  readonly config: InventoryEntry['config'];
}

/** Files that are named; of more their number. */
const named = 3;

/** Says of a copy that missed which files changed, from what is stored beside the entry that it was compared with. */
export async function nameFiles(
  explanation: StepExplanation<StoredEntry>,
  progress: Progress,
  signal: AbortSignal,
): Promise<StepExplanation<StoredEntry>> {
  const { step, nearest, differences } = explanation;
  const content = differences.find(({ field }) => field === 'content');
  const now = step.files === undefined ? undefined : foldFileList(step.files);
  if (content === undefined || nearest === undefined || now === undefined) return explanation;
  try {
    const bytes = await nearest.store.readBlob(nearest.config, maximumDocumentSize, signal);
    const before = decodeFileList(JSON.parse(Buffer.from(bytes).toString('utf8')));
    if (before === undefined) return explanation;
    const changes = compareFileLists(now, before);
    if (changes.length === 0) return explanation;
    const words = changes.slice(0, named).map(({ path, change }) => {
      const what = path.endsWith('/') ? `files below ${printable(path)}` : `file ${printable(path)}`;
      const verb = path.endsWith('/') ? 'are' : 'is';
      return `${what} ${change === 'changed' ? 'changed' : change === 'added' ? `${verb} new` : `${verb} gone`}`;
    });
    if (changes.length > named) words.push(`${changes.length - named} more files changed`);
    const files: Difference[] = words.map((text) => ({ field: 'content', words: text }));
    const all = differences.flatMap((difference) => (difference === content ? files : [difference]));
    return { ...explanation, differences: all, reasons: all.map(({ words: text }) => text) };
  } catch (error) {
    if (isAbortError(error)) throw error;
    progress.warn(`what ${nearest.key.slice(0, 12)} copied is not known: ${messageOf(error)}`);
    return explanation;
  }
}
