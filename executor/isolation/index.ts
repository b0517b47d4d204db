export {
  type BackendChoice,
  chooseBackend,
  type IsolationKind,
  isolationKinds,
  noBackend,
  openIsolation,
} from './choose.ts';
export { missingStepCapabilities, ownCapabilities } from './capabilities.ts';
export {
  describeMountRights,
  mountObstacle,
  type MountRights,
  mountRights,
  securityLabel,
  singleIdStatement,
} from './mount-rights.ts';
export { OverlayIsolation } from './overlay.ts';
export type * from './types.ts';
