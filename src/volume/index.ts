export type {
  StoredImage,
  StoredImageDetails,
  StoredImageSummary,
  StoredLayerDetails,
  VolumeUsage,
} from './images.ts';
export type { LeasedSource } from './layer-source.ts';
export { type LayerLease, Lease } from './leases.ts';
export { OciLayout, type OciLayoutOptions, refNameAnnotation } from './oci-layout.ts';
export type { PullOptions, PullResult } from './pull.ts';
export { Volume, type VolumeOptions } from './volume.ts';
export * from './node-protocol.ts';
