import { accessSync, constants, lstatSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { release } from 'node:os';
import { join } from 'node:path';
import { formatIds, idMap, inUserNamespace, isMountFiltered, processStatus } from '../src/os/index.ts';
import type { EnvironmentError } from '../src/support/index.ts';
import { KilnError, Progress, systemErrorCode, TemporaryDirectory, TextFiles } from '../src/support/index.ts';
import { Volume } from '../src/volume/index.ts';
import { runsFromHome } from './home.ts';
import {
  type BackendChoice,
  chooseBackend,
  describeMountRights,
  missingStepCapabilities,
  mountObstacle,
  noBackend,
  ownCapabilities,
  securityLabel,
} from './isolation/index.ts';
import { ownScratchParent } from './volumes.ts';

/** What a build would find in the place where this process runs. */
export interface Environment {
  readonly backend: BackendReport;
  readonly user: string;
  readonly capabilities: readonly string[];
  /** Capabilities of a container by default that steps would not have. */
  readonly missingCapabilities: readonly string[];
  readonly seccomp: { readonly mode: 'none' | 'strict' | 'filter'; readonly refusesMount: boolean };
  /** AppArmor's profile or SELinux' context; null where there is none. */
  readonly securityLabel: string | null;
  /** The ids of the user namespace; null in that of the machine. */
  readonly userNamespace: string | null;
  readonly kernel: string;
  readonly scratch: SpaceReport;
  readonly volume: VolumeReport;
}

export interface BackendReport {
  /** What `--isolation auto` comes to. */
  readonly chosen: 'overlay' | 'inplace' | 'none';
  readonly reason: string;
  /** Why not the better one, and what would change that. */
  readonly better: {
    readonly backend: 'overlay';
    readonly reason: string;
    readonly remedy: string | null;
    /** Lines to add to the pod, when that is what helps. */
    readonly pod: readonly string[];
  } | null;
  /** Why steps cannot run in place; null when they can. */
  readonly inplace: string | null;
}

export interface SpaceReport {
  readonly directory: string;
  readonly fileSystem: string;
  readonly freeBytes: number;
  /** Null on file systems that have no fixed number. */
  readonly freeInodes: number | null;
}

export interface VolumeReport {
  readonly directory: string;
  readonly mode: 'read-write' | 'read-only' | 'missing';
  /** Why builds cannot use it; null when they can. */
  readonly problem: string | null;
  readonly space: SpaceReport | null;
}

export interface EnvironmentOptions {
  readonly cacheDirectory: string;
  /** Undefined: where a build would take it. */
  readonly scratchDirectory: string | undefined;
}

/** Looks at this place and tries, for a moment, what a build would do. Leaves nothing behind. */
export async function readEnvironment(
  options: EnvironmentOptions,
): Promise<{ readonly environment: Environment; readonly failure: EnvironmentError | undefined }> {
  const { cacheDirectory } = options;
  const mode = volumeMode(cacheDirectory);
  const parent = options.scratchDirectory ?? (mode === 'read-write' ? cacheDirectory : ownScratchParent());
  await using scratch = await TemporaryDirectory.create(parent, 'kiln-check-');
  const choice = await chooseBackend(scratch.path, {
    given: [cacheDirectory, parent],
    secrets: [],
    force: false,
    cleanup: false,
    progress: new Progress(),
    files: new TextFiles(),
  });
  const environment: Environment = {
    backend: await backendReport(choice, scratch.path),
    user: describeMountRights(),
    capabilities: [...ownCapabilities('effective')],
    missingCapabilities: missingStepCapabilities(),
    seccomp: {
      mode: (['none', 'strict', 'filter'] as const)[Number(processStatus('Seccomp') ?? 0)] ?? 'none',
      refusesMount: isMountFiltered(),
    },
    securityLabel: securityLabel() ?? null,
    userNamespace: inUserNamespace() ? formatIds(idMap('uid')) : null,
    kernel: `Linux ${release()}`,
    scratch: { ...(await spaceReport(scratch.path)), directory: parent },
    volume: await volumeReport(cacheDirectory, mode),
  };
  return { environment, failure: choice.kind === undefined ? noBackend(choice) : undefined };
}

async function backendReport(choice: BackendChoice, scratch: string): Promise<BackendReport> {
  const { kind, overlay, inplace } = choice;
  const reason =
    kind === 'overlay'
      ? 'overlay file systems can be mounted'
      : (overlay?.message ?? 'overlay file systems cannot be mounted');
  const obstacle = overlay === undefined ? undefined : await mountObstacle(overlay.cause, scratch);
  return {
    chosen: kind ?? 'none',
    reason,
    better:
      overlay === undefined
        ? null
        : {
            backend: 'overlay',
            reason: overlay.message,
            remedy: overlay.remedy ?? null,
            pod: runsFromHome() ? (obstacle?.pod ?? []) : [],
          },
    inplace: inplace?.message ?? null,
  };
}

function volumeMode(directory: string): VolumeReport['mode'] {
  if (lstatSync(directory, { throwIfNoEntry: false }) === undefined) return 'missing';
  try {
    accessSync(directory, constants.W_OK);
    return 'read-write';
  } catch (error) {
    if (['EROFS', 'EACCES', 'EPERM'].includes(systemErrorCode(error) ?? '')) return 'read-only';
    throw error;
  }
}

async function volumeReport(directory: string, mode: VolumeReport['mode']): Promise<VolumeReport> {
  if (mode === 'missing') return { directory, mode, problem: null, space: null };
  return { directory, mode, problem: await volumeProblem(directory), space: await spaceReport(directory) };
}

async function volumeProblem(directory: string): Promise<string | null> {
  try {
    await using volume = await Volume.open(directory, { access: 'read-only' });
    // No layer at all, but that also looks whether the files' owners are who they should be.
    await using _none = await volume.acquireLayers([]);
    return null;
  } catch (error) {
    if (!(error instanceof KilnError)) throw error;
    // An empty directory becomes a volume when it is first written to.
    return error.code === 'E_VOLUME_NOT_FOUND' ? null : error.message;
  }
}

/** Names by the magic numbers of statfs(2). */
const fileSystems: Readonly<Record<number, string>> = {
  0xef53: 'ext4',
  0x58465342: 'xfs',
  0x9123683e: 'btrfs',
  0x01021994: 'tmpfs',
  0x794c7630: 'overlay',
  0x2fc12fc1: 'zfs',
  0x6969: 'nfs',
  0x65735546: 'fuse',
  0x01021997: '9p',
};

async function spaceReport(directory: string): Promise<SpaceReport> {
  const { type, bavail, bsize, files, ffree } = await statfs(join(directory));
  return {
    directory,
    fileSystem: fileSystems[type] ?? `0x${type.toString(16)}`,
    freeBytes: bavail * bsize,
    freeInodes: files === 0 ? null : ffree,
  };
}
