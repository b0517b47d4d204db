export { expandHeredoc, expandWord, expandWords, ExpansionError, type Lookup } from './expand.ts';
export { nearestWord } from './fields.ts';
export { parseDockerfile, parseTriggers } from './parse.ts';
export {
  expandAt,
  namedImages,
  type NamedImage,
  type Origin,
  platformArguments,
  type ResolvedStage,
  resolveStages,
  type StageGraph,
  type StageOptions,
} from './stages.ts';
export type * from './types.ts';
