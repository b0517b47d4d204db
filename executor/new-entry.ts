import {
  describeKey,
  foldFileList,
  type KeyDefinition,
  type NewEntry,
  stepKey,
} from '../src/layercache/index.ts';
import { originOf, type PlannedStage, type PlannedStep } from './plan.ts';

/** What a cache is given of a step's result, under one of its keys, beside its layer. */
export function newEntryOf(
  stage: PlannedStage,
  step: PlannedStep,
  definition: KeyDefinition,
  made: Pick<NewEntry, 'parentChainID' | 'created' | 'origins'>,
): NewEntry {
  return {
    ...made,
    key: stepKey(definition),
    createdBy: step.written,
    origin: originOf(stage, step),
    files: step.files === undefined ? undefined : foldFileList(step.files),
    description: describeKey(definition),
  };
}
