export { type IsolationKind, isolationKinds, openIsolation } from './choose.ts';
export { describeMountRights, type MountRights, mountRights, singleIdStatement } from './mount-rights.ts';
export { OverlayIsolation } from './overlay.ts';
export type * from './types.ts';
