export {
  type MountResources,
  type MountStage,
  type OpenedMounts,
  openMounts,
  openSources,
} from './open-mounts.ts';
