export { FileLock } from './file-lock.ts';
export type {
  StoredImage,
  StoredImageDetails,
  StoredImageSummary,
  StoredLayerDetails,
  VolumeUsage,
} from './images.ts';
export { type LayerLease, Lease } from './leases.ts';
export { NodeClient, type NodeClientTimeouts, type NodeImage, type AnnouncedImage } from './node-client.ts';
export * from './node-messages.ts';
export { OciLayout, type OciLayoutOptions, refNameAnnotation } from './oci-layout.ts';
export type { PullOptions, PullResult } from './pull.ts';
export { Volume, type VolumeOptions } from './volume.ts';
export * from './node-protocol.ts';
