export type {
  StoredImage,
  StoredImageDetails,
  StoredImageSummary,
  StoredLayerDetails,
  VolumeUsage,
} from './images.ts';
export { untilAborted } from './flight.ts';
export { type LayerLease, Lease } from './leases.ts';
export { OciLayout, type OciLayoutOptions, refNameAnnotation } from './oci-layout.ts';
export type { PullOptions, PullResult } from './pull.ts';
export { replaceFile } from './storage.ts';
export { Volume, type VolumeOptions } from './volume.ts';
export * from './node-protocol.ts';
