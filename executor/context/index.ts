export { copyInto, type CopyRequest } from './copy.ts';
export { type IgnoreRules, isIgnoredForCertain } from './dockerignore.ts';
export { type BuildContext, openContext, readDockerfile } from './open-context.ts';
export { resolveOwner, resolveUser, type UserIdentity } from './owner.ts';
export { matchSources, type SourceQuery } from './sources.ts';
export { readTree, treeDigest, type TreeDigestOptions, type TreeReading } from './tree-digest.ts';
