export {
  acquireCacheMount,
  type CacheMount,
  type CacheMountLease,
  type CacheMountRequest,
  listCacheMounts,
} from './cache-mounts.ts';
export { FileLock } from './file-lock.ts';
export type { LeasedSource } from './layer-source.ts';
export { type LayerLease, Lease } from './leases.ts';
export type { StoredImageDetails, StoredImageSummary, StoredLayerDetails } from './listing.ts';
export { NodeClient, type NodeClientTimeouts, type NodeImage, type AnnouncedImage } from './node-client.ts';
export * from './node-messages.ts';
export * from './node-protocol.ts';
export { OciLayout, type OciLayoutOptions, refNameAnnotation } from './oci-layout.ts';
export type { PruneItem, PrunePlan, SkipReason, Skipped } from './prune-plan.ts';
export type { PruneFilter, PruneKind, PrunePolicy, Space, SpaceAmount } from './prune-policy.ts';
export type { PruneResult } from './prune.ts';
export type { PullOptions, PullResult } from './pull.ts';
export { notWarm } from './references.ts';
export { replaceFile } from './storage.ts';
export { layersOf, readImage, type StoredImage } from './stored-image.ts';
export type { FileCount, VolumeUsage } from './usage.ts';
export { type LayerLimits, Volume, type VolumeOptions } from './volume.ts';
export type { Damage, VerifyResult } from './verify.ts';
