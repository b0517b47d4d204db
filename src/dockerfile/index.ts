export {
  type BaseFacts,
  type CheckContext,
  checkDockerfile,
  type CheckResult,
  type Finding,
} from './check.ts';
export { type CheckName, checkRules, rulePage } from './rules.ts';
export {
  expand,
  type ExpandOptions,
  expandHeredoc,
  type Expansion,
  expandWord,
  expandWords,
  ExpansionError,
  type Lookup,
} from './expand.ts';
export { chompBody, parseHeredocOpening } from './heredocs.ts';
export * from './mounts.ts';
export { addExcerpt } from './excerpt.ts';
export { nearestWord } from './fields.ts';
export { parseDockerfile } from './parse.ts';
export {
  contextKey,
  expandAt,
  namedImages,
  type NamedImage,
  type Origin,
  automaticArguments,
  type ResolvedStage,
  resolveStages,
  neededStages,
  type StageGraph,
  type StageOptions,
  withTriggers,
} from './stages.ts';
export * from './types.ts';
