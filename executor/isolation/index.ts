export { OverlayIsolation } from './overlay.ts';
export type * from './types.ts';
