import { Command } from 'commander';
import {
  addFlags,
  booleanFlag,
  logFlags,
  type LogFlags,
  outputFlag,
  type OutputFlags,
} from '../src/cli/index.ts';
import { formatBytes, Progress, reportTo, UsageError } from '../src/support/index.ts';
import type { PrunePlan, PruneResult } from '../src/volume/index.ts';
import { confirm } from './confirm.ts';
import { openForReading, openForWriting } from './open-volume.ts';
import { prunePolicy, prunePolicyFlags, type PrunePolicyFlags } from './prune-flags.ts';
import { pruneTable, skippedLine } from './prune-table.ts';
import { cacheDirFlag, type VolumeFlags } from './volume-flags.ts';

interface PruneFlags extends VolumeFlags, PrunePolicyFlags, OutputFlags, LogFlags {
  readonly dryRun: boolean;
  readonly force: boolean;
  readonly verbose: boolean;
}

/** The bounds could not be kept with what may go. */
const partlyDone = 3;

const examples = `
Examples:
  warmer prune --unused-for 30d                       images that no build used for a month
  warmer prune --max-size 50GB --force                least recently used first, until the volume takes 50 GB
  warmer prune --high-water-mark 85% --low-water-mark 80% --force
  warmer prune 'registry.example/team/**' --older-than 7d --dry-run
  warmer prune --unpacked-only --all                  keep the images, drop their unpacked layers

Conditions are all to be met; bounds end the pruning as soon as they are kept. Pinned images, and what a build uses, stay.

Exit codes: 0 done, 2 usage, 3 the bounds could not be kept with what may go, or the environment is at fault.`;

/** `warmer prune`. */
export function pruneCommand(signal: AbortSignal, onExitCode: (code: number) => void): Command {
  const command = new Command('prune')
    .description('remove images and layers by age, last use and space')
    .argument('[pattern...]', 'only images that match: debian, registry.example/team/**, node:22-*')
    .addHelpText('after', examples)
    .action(async (patterns: readonly string[], flags: PruneFlags) => {
      onExitCode(await prune(patterns, flags, signal));
    });
  return addFlags(command, [
    cacheDirFlag(),
    ...prunePolicyFlags(),
    booleanFlag('-n, --dry-run', 'only say what would go', false),
    booleanFlag('-f, --force', 'do not ask', false),
    booleanFlag('--verbose', 'name every image, layer and blob in full', false),
    outputFlag(),
    ...logFlags(),
  ]);
}

async function prune(patterns: readonly string[], flags: PruneFlags, signal: AbortSignal): Promise<number> {
  const policy = prunePolicy(flags, patterns);
  const asks = !flags.dryRun && !flags.force;
  const isTerminal = process.stdin.isTTY && process.stderr.isTTY;
  if (asks && !isTerminal)
    throw new UsageError('nobody can be asked here whether to prune', {
      code: 'E_FORCE_REQUIRED',
      remedy: 'Give --force to prune without asking, or --dry-run to see what would go.',
    });
  const progress = new Progress();
  using _reporter = reportTo(progress, flags);
  await using volume = await (flags.dryRun ? openForReading : openForWriting)(flags, progress);
  const plan = await volume.planPrune(policy, signal);
  if (plan.damaged > 0)
    progress.warn(
      `${plan.damaged} manifests are damaged, so blobs that nothing seems to refer to stay; see warmer verify`,
    );
  const show = (what: PrunePlan['items']): void => {
    if (flags.output === 'table') process.stdout.write(pruneTable(what, flags));
  };
  if (flags.dryRun) {
    show(plan.items);
    tellPlan(plan, flags);
    return 0;
  }
  if (asks && plan.items.length > 0) {
    show(plan.items);
    if (!(await confirm(`Remove these, ${formatBytes(plan.reclaimableBytes)}?`, signal))) return 0;
  }
  const result = await volume.prune(plan, signal);
  if (!asks) show(result.removed);
  tellResult(result, plan, flags);
  if (plan.missingBytes === 0) return 0;
  progress.warn(`${formatBytes(plan.missingBytes)} more would have to go, but what is left may not`);
  return partlyDone;
}

function tellPlan(plan: PrunePlan, flags: PruneFlags): void {
  const { items, reclaimableBytes, missingBytes, skipped, space, damaged } = plan;
  if (flags.output === 'json')
    writeJson({ dryRun: true, items, reclaimableBytes, missingBytes, skipped, space, damaged });
  else
    process.stdout.write(
      `${skippedLine(skipped)}Total reclaimable space: ${formatBytes(reclaimableBytes)}\n`,
    );
}

function tellResult(result: PruneResult, plan: PrunePlan, flags: PruneFlags): void {
  const { removed, reclaimedBytes, skipped, space } = result;
  const { missingBytes, damaged } = plan;
  if (flags.output === 'json')
    writeJson({ dryRun: false, items: removed, reclaimedBytes, missingBytes, skipped, space, damaged });
  else process.stdout.write(`${skippedLine(skipped)}Total reclaimed space: ${formatBytes(reclaimedBytes)}\n`);
}

function writeJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, undefined, 2)}\n`);
}
