export {
  type GitSource,
  type HttpSource,
  isCommit,
  parseRemote,
  type RemoteFlags,
  type RemoteSource,
} from './addresses.ts';
export { RemoteSources, type ResolvedRemote } from './remote-sources.ts';
export { GitTrees } from './git-trees.ts';
export { HttpFiles } from './http-files.ts';
export type { SshFiles } from './git-program.ts';
