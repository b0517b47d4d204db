import { Command } from 'commander';
import { addFlags, logFlags, type LogFlags } from '../src/cli/index.ts';
import { Progress, reportTo } from '../src/support/index.ts';
import { openForWriting } from './open-volume.ts';
import { cacheDirFlag, type VolumeFlags } from './volume-flags.ts';

/** `warmer reindex`. */
export function reindexCommand(signal: AbortSignal): Command {
  const command = new Command('reindex')
    .description('make the index database anew from the files on the volume')
    .action(async (flags: VolumeFlags & LogFlags) => {
      const progress = new Progress();
      using _reporter = reportTo(progress, flags);
      await using volume = await openForWriting(flags, progress);
      await volume.reindex(signal);
      process.stdout.write(`indexed ${(await volume.images()).length} images\n`);
    });
  return addFlags(command, [cacheDirFlag(), ...logFlags()]);
}
