export { copyInto, type CopyRequest, type FetchedSource } from './copy.ts';
export { type IgnoreRules, isIgnoredForCertain, parseExcludes } from './dockerignore.ts';
export { gatherInto, type Gathered } from './gather.ts';
export { makeDirectory } from './make-directory.ts';
export { ModeChange } from './mode-change.ts';
export {
  type BuildContext,
  dockerfileName,
  openContext,
  pathInTree,
  readDockerfile,
  standardInput,
} from './open-context.ts';
export { resolveOwner, resolveUser, type UserIdentity } from './owner.ts';
export { matchSources, type SourceQuery } from './sources.ts';
export { readTree, treeDigest, type TreeDigestOptions, type TreeReading } from './tree-digest.ts';
export { TreeReadings } from './tree-readings.ts';
