export { type ContextAddress, contextName, parseContext, type RemoteContext } from './address.ts';
export { type ContextPlace, fetchContext, type RepositoryAccess } from './fetch-context.ts';
export { accessOf, type GitFlags, parseBuildContext, parseGitFlags } from './git-context.ts';
