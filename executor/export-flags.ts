import { join } from 'node:path';
import { InvalidArgumentError, type Option } from 'commander';
import { booleanFlag, listFlag, valueFlag } from '../src/cli/index.ts';
import type { Reference } from '../src/oci/index.ts';
import { UsageError } from '../src/support/index.ts';
import { Annotations } from './annotations.ts';
import { type ImageFormat, imageFormats } from './image.ts';
import type { DigestFiles, OutputOptions } from './options.ts';

/** What the flags of {@link digestFileFlags} give. */
export interface DigestFileFlags {
  readonly digestFile?: string;
  readonly imageNameWithDigestFile?: string;
  readonly imageNameTagWithDigestFile?: string;
}

/** What the flags of {@link exportFlags} give. */
export interface ExportFlags extends DigestFileFlags {
  readonly destination: string[];
  readonly noPush?: boolean;
  readonly tarPath?: string;
  readonly ociLayoutPath?: string;
  readonly imageFormat: ImageFormat;
  readonly compression: 'gzip' | 'zstd';
  readonly compressionLevel: number;
  readonly forceCompression: boolean;
  readonly annotation: string[];
  readonly pushIgnoreImmutableTagErrors: boolean;
  readonly skipPushPermissionCheck: boolean;
}

/** The flags that say where the image goes, and in what form. */
export function exportFlags(): Option[] {
  return [
    listFlag('-d, --destination <reference>', 'where to push the image'),
    booleanFlag('--no-push', 'do not push to the destinations'),
    valueFlag('--tar-path <file>', 'also write the image as a tar file for docker load'),
    valueFlag('--oci-layout-path <directory>', 'also write the image to an OCI image layout'),
    ...digestFileFlags(),
    immutableTagsFlag(),
    booleanFlag(
      '--skip-push-permission-check',
      'do not find out whether the image may be pushed before it is built',
      false,
    ),
    valueFlag('--image-format <format>', 'whose media types the image has')
      .choices(imageFormats)
      .default('oci'),
    listFlag('--annotation <key=value>', 'annotation of the manifest; index:key=value for that of an index'),
    valueFlag('--compression <format>', 'compression of new layers')
      .choices(['gzip', 'zstd'])
      .default('gzip'),
    valueFlag('--compression-level <level>', '0 to 9 for gzip, 1 to 22 for zstd; -1 for 5 and 3')
      .argParser(parseLevel)
      .default(-1),
    booleanFlag(
      '--force-compression',
      'compress the layers of the base anew that are compressed otherwise',
      false,
    ),
  ];
}

export function immutableTagsFlag(): Option {
  return booleanFlag(
    '--push-ignore-immutable-tag-errors',
    'leave tags as they are that the registry lets nobody change, instead of failing',
    false,
  );
}

/** The flags for files that tell what was pushed; names and contents are kaniko's. */
export function digestFileFlags(): Option[] {
  return [
    valueFlag(
      '--digest-file <file>',
      'write the digest of the image to a file, or PUT it to an https:// address',
    ),
    valueFlag(
      '--image-name-with-digest-file <file>',
      'write name@digest of each destination to a file or https:// address',
    ),
    valueFlag(
      '--image-name-tag-with-digest-file <file>',
      'write name:tag@digest of each destination to a file or https:// address',
    ),
  ];
}

/** What a build is, as far as it matters to where its image goes. */
export interface ExportedBuild {
  readonly cacheDirectory: string;
  /** What the context is called. */
  readonly name: string;
  /** Something is said of the image beside it, which takes an index. */
  readonly attests: boolean;
  /** How many platforms it is for. */
  readonly platforms: number;
}

/**
 * @param destinations where the image goes.
 * @throws UsageError for what does not go together.
 */
export function exportOptions(
  flags: ExportFlags,
  destinations: readonly Reference[],
  build: ExportedBuild,
): OutputOptions {
  const { imageFormat: format, compression, compressionLevel: level, forceCompression } = flags;
  const { cacheDirectory, name, attests, platforms } = build;
  const annotations = new Annotations(flags.annotation);
  if (format === 'docker' && compression === 'zstd')
    throw unsuitable('layers compressed with zstd', 'Use --compression gzip, or --image-format oci.');
  if (format === 'docker' && !annotations.isEmpty)
    throw unsuitable('annotations', 'Use --label, or --image-format oci.');
  if (format === 'docker' && attests)
    throw unsuitable('attestations', 'Leave out --attest, or use --image-format oci.');
  if (platforms > 1 && flags.tarPath !== undefined)
    throw new UsageError('--tar-path holds an image of one platform, which is what docker load reads', {
      remedy: 'Use --oci-layout-path, which holds the images of all, or build for one --platform.',
    });
  if (annotations.index.size > 0 && !attests && platforms <= 1)
    throw new UsageError('there is an annotation for an index, but an image of one platform has none', {
      remedy: 'Annotate the manifest: --annotation key=value.',
    });
  if (compression === 'gzip' && level > 9)
    throw new UsageError(`--compression-level ${level} is more than gzip has`, {
      remedy: 'Give 0 to 9, or use --compression zstd.',
    });
  const push = flags.noPush !== true;
  const nowhere =
    destinations.length === 0 && flags.tarPath === undefined && flags.ociLayoutPath === undefined;
  // With nothing said about where to, the image goes to a layout beside the cache.
  const ownLayout = nowhere && push ? join(cacheDirectory, 'images', name.toLowerCase()) : undefined;
  const ociLayoutPath = flags.ociLayoutPath ?? ownLayout;
  if (attests && ociLayoutPath === undefined && (!push || destinations.length === 0))
    throw new UsageError(
      '--attest needs a registry or an OCI layout: a tar file for docker load has no place for it',
      { remedy: 'Add --destination or --oci-layout-path.' },
    );
  return {
    destinations,
    push,
    checkPush: !flags.skipPushPermissionCheck,
    tarPath: flags.tarPath,
    ociLayoutPath,
    digestFiles: digestFiles(flags),
    format,
    annotations,
    compression: { compression, ...(level < 0 ? {} : { level }) },
    forceCompression,
    ignoreImmutableTags: flags.pushIgnoreImmutableTagErrors,
  };
}

/** @throws UsageError. */
export function digestFiles(flags: DigestFileFlags): DigestFiles {
  const { digestFile: digest, imageNameWithDigestFile: named, imageNameTagWithDigestFile: tagged } = flags;
  for (const path of [digest, named, tagged])
    if (path?.startsWith('http://') === true)
      throw new UsageError('a digest is not sent to http:// addresses', {
        remedy: 'Give a file, or an https:// address.',
      });
  return { digest, named, tagged, builderOutput: process.env.BUILDER_OUTPUT };
}

function unsuitable(what: string, remedy: string): UsageError {
  return new UsageError(`images of Docker's format cannot have ${what}`, { code: 'E_IMAGE_FORMAT', remedy });
}

function parseLevel(text: string): number {
  const level = Number(text);
  if (!/^-?[0-9]{1,2}$/.test(text) || level < -1 || level > 22)
    throw new InvalidArgumentError('It must be a number from 0 to 22, or -1 for the default.');
  return level;
}
