export { type IsolationKind, isolationKinds, openIsolation } from './choose.ts';
export type * from './types.ts';
