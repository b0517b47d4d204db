export { type ContextAddress, contextName, parseContext, type RemoteContext } from './address.ts';
export { type ContextPlace, fetchContext } from './fetch-context.ts';
export { type GitFlags, parseBuildContext, parseGitFlags } from './git-context.ts';
