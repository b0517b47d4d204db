import { Command } from 'commander';
import { addFlags, logFlags, type LogFlags, valueFlag } from '../src/cli/index.ts';
import { formatPlatform, formatReference, parsePlatform, parseReference } from '../src/oci/index.ts';
import { Progress, reportTo } from '../src/support/index.ts';
import { notWarm } from '../src/volume/index.ts';
import { openForWriting } from './open-volume.ts';
import { cacheDirFlag, type VolumeFlags } from './volume-flags.ts';

interface PinFlags extends VolumeFlags, LogFlags {
  readonly platform?: string;
}

/** `warmer pin` and `warmer unpin`. */
export function pinCommands(): Command[] {
  return [
    pinCommand('pin', 'keep images whatever is pruned, also after they are pulled anew', true),
    pinCommand('unpin', 'let prune take images again', false),
  ];
}

function pinCommand(name: string, description: string, pinned: boolean): Command {
  const command = new Command(name)
    .description(description)
    .argument('<image...>', 'references of images on the volume')
    .action((names: readonly string[], flags: PinFlags) => setPinned(names, flags, pinned));
  return addFlags(command, [
    cacheDirFlag(),
    valueFlag('--platform <os/arch>', 'only of this platform (default: all that are there)'),
    ...logFlags(),
  ]);
}

/** All names are checked before anything is changed. */
async function setPinned(names: readonly string[], flags: PinFlags, pinned: boolean): Promise<void> {
  const references = names.map(parseReference);
  const platform = flags.platform === undefined ? undefined : parsePlatform(flags.platform);
  const progress = new Progress();
  using _reporter = reportTo(progress, flags);
  await using volume = await openForWriting(flags, progress);
  const images = await volume.images();
  for (const reference of references) {
    const name = formatReference(reference);
    const those = images.filter((image) => image.reference === name);
    if (those.length === 0) throw notWarm(name, volume.directory);
    const wanted = platform === undefined ? undefined : formatPlatform(platform);
    if (wanted !== undefined && !those.some((image) => image.platform === wanted))
      throw notWarm(`${name} for ${wanted}`, volume.directory);
  }
  for (const reference of references)
    for (const changed of await volume.setPinned(reference, platform, pinned))
      process.stdout.write(`${pinned ? 'pinned' : 'unpinned'} ${formatReference(reference)} (${changed})\n`);
}
