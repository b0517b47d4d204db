import { Command } from 'commander';
import {
  addFlags,
  booleanFlag,
  logFlags,
  type LogFlags,
  outputFlag,
  type OutputFlags,
  registryFlags,
  type RegistryFlags,
  registryOptions,
} from '../src/cli/index.ts';
import { RegistryClient } from '../src/registry/index.ts';
import { formatTable, Progress, reportTo, shortenDigests } from '../src/support/index.ts';
import { type Damage, type VerifyResult, Volume } from '../src/volume/index.ts';
import { cacheDirFlag, type VolumeFlags, volumeDirectory } from './volume-flags.ts';

interface VerifyFlags extends VolumeFlags, RegistryFlags, LogFlags, OutputFlags {
  readonly repair: boolean;
}

const examples = `
Examples:
  warmer verify --cache-dir /cache            read everything, change nothing
  warmer verify --cache-dir /cache --repair   fetch and unpack again what is damaged

Exit codes: 0 all is well or was repaired, 1 damage is left.`;

/** `warmer verify`. */
export function verifyCommand(signal: AbortSignal, onExitCode: (code: number) => void): Command {
  const command = new Command('verify')
    .description('compare all blobs and unpacked layers on the volume with their digests')
    .addHelpText('after', examples)
    .action(async (flags: VerifyFlags) => onExitCode(await verify(flags, signal)));
  return addFlags(command, [
    cacheDirFlag(),
    booleanFlag('--repair', 'heal what is damaged, from the registries that the images came from', false),
    ...registryFlags(),
    outputFlag(),
    ...logFlags(),
  ]);
}

async function verify(flags: VerifyFlags, signal: AbortSignal): Promise<number> {
  const progress = new Progress();
  using _reporter = reportTo(progress, flags);
  const directory = volumeDirectory(flags);
  // Also when it is to be repaired, only a volume that is there: a mistyped path must not become an empty one.
  await using looking = await Volume.open(directory, { access: 'read-only', progress });
  const onDamage = (damage: Damage): void => progress.warn(describeDamage(damage));
  let result: VerifyResult;
  if (flags.repair) {
    await using client = new RegistryClient(registryOptions(flags, progress));
    await using volume = await Volume.open(directory, { access: 'read-write', progress });
    result = await volume.verify({ repair: client, onDamage, signal });
  } else result = await looking.verify({ onDamage, signal });
  const text = flags.output === 'json' ? `${JSON.stringify(result, undefined, 2)}\n` : verifyTable(result);
  process.stdout.write(text);
  return result.damages.every(({ outcome }) => outcome === 'repaired' || outcome === 'removed') ? 0 : 1;
}

const outcomes: Readonly<Record<Damage['outcome'], string>> = {
  found: 'not repaired',
  repaired: 'repaired',
  removed: 'removed, nothing needs it',
  in_use: 'left alone, a build uses it',
  failed: 'could not be repaired',
};

function describeDamage({ kind, digest, problem, images, outcome, message }: Damage): string {
  const what = kind === 'blob' ? 'blob' : 'unpacked layer';
  const whose = images.length === 0 ? '' : ` of ${images.join(', ')}`;
  return `${what} ${shortenDigests(digest)}${whose} is ${problem}: ${outcomes[outcome]}${message === undefined ? '' : ` (${message})`}`;
}

function verifyTable({ images, blobs, layers, unchecked, damages }: VerifyResult): string {
  const left = damages.filter(({ outcome }) => outcome !== 'repaired' && outcome !== 'removed').length;
  const rows = [
    ['images', String(images)],
    ['blobs', String(blobs)],
    ['unpacked layers', String(layers)],
    ...(unchecked === 0 ? [] : [['sealed by an older version, not checked', String(unchecked)]]),
    ['damaged', String(damages.length)],
    ['still damaged', String(left)],
  ];
  return formatTable(['VERIFIED', 'COUNT'], rows);
}
