import type { HistoryEntry, ImageConfig } from '../src/oci/index.ts';
import type { PlannedStage } from './plan.ts';
import type { StageResult } from './stack.ts';

/**
 * The history of the base, and then one entry for every instruction of the stages the image went through. A step has the
 * time at which it ran, also when that was in an earlier build, and metadata that of what is before it: so a build that
 * changes nothing gives the very same image.
 *
 * @param resultOf the result of an earlier stage.
 * @param date of all entries that are not the base's; undefined: their own.
 */
export async function historyOf(
  stage: PlannedStage,
  result: StageResult,
  resultOf: (stage: PlannedStage) => Promise<StageResult>,
  date?: Date,
): Promise<HistoryEntry[]> {
  const history: HistoryEntry[] = [];
  const { base } = stage;
  if (base.kind === 'image')
    history.push(...(base.image.config.history ?? missingHistory(base.image.config)));
  if (base.kind === 'stage')
    history.push(...(await historyOf(base.stage, await resultOf(base.stage), resultOf, date)));
  let created = newest(history);
  let position = 0;
  for (const item of stage.interpreted.items) {
    const made = item.kind === 'step' ? result.steps[position++] : undefined;
    if (made?.created !== undefined && made.created > created) ({ created } = made);
    const entry = item.kind === 'step' ? item.step.history : item.history;
    const empty = (await made?.placed) === undefined;
    history.push({
      created: (date ?? created).toISOString(),
      ...entry,
      ...(empty ? { empty_layer: true } : {}),
    });
  }
  return history;
}

/** The latest time in a history; that of Unix's beginning when it has none. */
export function newest(history: readonly HistoryEntry[]): Date {
  const times = history.map(({ created }) => Date.parse(created ?? ''));
  return new Date(times.reduce((latest, time) => (time > latest ? time : latest), 0));
}

/** Every layer has an entry, also those of a base that tells nothing of how it was made. */
function missingHistory({ created, rootfs }: ImageConfig): HistoryEntry[] {
  return rootfs.diff_ids.map(() => ({
    ...(created === undefined ? {} : { created }),
    created_by: 'layer of the base image',
  }));
}
