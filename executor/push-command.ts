import { Command } from 'commander';
import {
  addFlags,
  listFlag,
  logFlags,
  type LogFlags,
  pushFlags,
  type PushFlags,
  registryFlags,
  type RegistryFlags,
  registryOptions,
} from '../src/cli/index.ts';
import { parseReference } from '../src/oci/index.ts';
import { RegistryClient } from '../src/registry/index.ts';
import { Progress, reportTo, UsageError } from '../src/support/index.ts';
import { type DigestFileFlags, digestFileFlags, digestFiles, immutableTagsFlag } from './export-flags.ts';

interface SavedPushFlags extends DigestFileFlags, RegistryFlags, PushFlags, LogFlags {
  readonly destination: readonly string[];
  readonly pushIgnoreImmutableTagErrors: boolean;
}

const examples = `
Examples:
  executor push app.tar --destination registry.example/app:1
  executor push layout/ -d registry.example/app:1 -d registry.example/app:latest
  executor push layout/:nightly -d registry.example/app:nightly --digest-file digest

SOURCE is what --tar-path, --oci-layout-path or docker save wrote: a tar file, also compressed, or an OCI layout; with :NAME behind
it where it has several images. What has a manifest keeps its digest.

Exit codes: 0 pushed, 2 usage, 3 environment, 4 a registry.`;

/** `executor push`: pushes an image that was saved. */
export function pushCommand(signal: AbortSignal): Command {
  const command = new Command('push')
    .description('push an image that was saved as a tar file or OCI layout')
    .argument('<source>', 'the tar file or layout')
    .allowExcessArguments(false)
    .addHelpText('after', examples)
    .action((source: string, flags: SavedPushFlags) => push(source, flags, signal));
  return addFlags(command, [
    listFlag('-d, --destination <reference>', 'where to push the image'),
    ...digestFileFlags(),
    immutableTagsFlag(),
    ...registryFlags(),
    ...pushFlags(),
    ...logFlags(),
  ]);
}

async function push(source: string, flags: SavedPushFlags, signal: AbortSignal): Promise<void> {
  const destinations = flags.destination.map(parseReference);
  if (destinations.length === 0)
    throw new UsageError('there is no --destination', { remedy: 'Say where to push the image.' });
  const files = digestFiles(flags);
  const progress = new Progress();
  using _reporter = reportTo(progress, flags);
  await using client = new RegistryClient(registryOptions(flags, progress));
  const [{ openSavedImage }, { pushTo, writeDigestFiles }] = await Promise.all([
    import('./saved/index.ts'),
    import('./export/index.ts'),
  ]);
  await using saved = await openSavedImage(source, signal);
  const { pushIgnoreImmutableTagErrors: ignoreImmutableTags } = flags;
  await pushTo(destinations, saved.pushable, client, { ignoreImmutableTags, progress }, signal);
  const { digest } = saved.pushable.root.descriptor;
  await writeDigestFiles(files, { digest, destinations, isPushed: true }, client, signal);
}
