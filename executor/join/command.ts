import { Command } from 'commander';
import {
  addFlags,
  listFlag,
  logFlags,
  type LogFlags,
  parsePairs,
  pushFlags,
  type PushFlags,
  registryFlags,
  type RegistryFlags,
  registryOptions,
  valueFlag,
} from '../../src/cli/index.ts';
import { formatPlatform, parseReference } from '../../src/oci/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { Progress, reportTo, UsageError } from '../../src/support/index.ts';
import { exportOutput } from '../export/index.ts';
import { digestFileFlags, type DigestFileFlags, digestFiles, immutableTagsFlag } from '../export-flags.ts';
import { assembleIndex } from '../image.ts';
import { readImages } from './join-images.ts';

interface JoinFlags extends DigestFileFlags, RegistryFlags, PushFlags, LogFlags {
  readonly destination: readonly string[];
  readonly ociLayoutPath?: string;
  readonly pushIgnoreImmutableTagErrors: boolean;
  readonly annotation: readonly string[];
}

const examples = `
Examples:
  executor index --destination registry.example/app:1 registry.example/app:1-amd64 registry.example/app:1-arm64
  executor index --oci-layout-path app oci:built-here:latest oci:built-there:latest

Images are named by references, or as oci:DIRECTORY:TAG. The platform of each is what its configuration says.

Exit codes: 0 done, 2 usage, 3 environment, 4 registry.`;

/** `executor index`: joins images that were made elsewhere. */
export function indexCommand(signal: AbortSignal): Command {
  const command = new Command('index')
    .description('join images for several platforms, wherever they were built, into one')
    .argument('<image...>', 'images to join; of an index, all that it has')
    .addHelpText('after', examples)
    .action((images: string[], flags: JoinFlags) => joinImages(images, flags, signal));
  return addFlags(command, [
    listFlag('-d, --destination <reference>', 'where to push the index and its images'),
    valueFlag('--oci-layout-path <directory>', 'also write them to an OCI image layout'),
    ...digestFileFlags(),
    immutableTagsFlag(),
    listFlag('--annotation <name=value>', 'annotation of the index'),
    ...registryFlags(),
    ...pushFlags(),
    ...logFlags(),
  ]);
}

async function joinImages(names: readonly string[], flags: JoinFlags, signal: AbortSignal): Promise<void> {
  const destinations = flags.destination.map(parseReference);
  const annotations = parsePairs(flags.annotation, 'annotation');
  const { ociLayoutPath, pushIgnoreImmutableTagErrors: ignoreImmutableTags } = flags;
  if (destinations.length === 0 && ociLayoutPath === undefined)
    throw new UsageError('it is not said where the index goes', {
      remedy: 'Give --destination REFERENCE, or --oci-layout-path DIRECTORY.',
    });
  const progress = new Progress();
  using _reporter = reportTo(progress, flags);
  await using client = new RegistryClient(registryOptions(flags, progress));
  const joined = await readImages(names, client, progress, signal);
  const images = joined.map(({ image }) => image);
  const index = assembleIndex(
    images.map(({ descriptor }) => descriptor),
    annotations,
  );
  const output = { images, index, descriptor: index.descriptor };
  await exportOutput(
    output,
    {
      ...{ destinations, push: true, tarPath: undefined, ociLayoutPath, ignoreImmutableTags },
      digestFiles: digestFiles(flags),
    },
    client,
    progress,
    signal,
  );
  const platforms = joined.map(({ platform }) => formatPlatform(platform)).join(', ');
  progress.emit({
    type: 'result',
    message: `joined ${platforms} as ${index.descriptor.digest}`,
    fields: { digest: index.descriptor.digest },
  });
}
