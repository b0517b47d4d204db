import { Command } from 'commander';
import { addFlags, booleanFlag } from '../../src/cli/index.ts';
import {
  type EntryPrunePlan,
  type EntryPruneResult,
  planEntryPrune,
  pruneEntries,
} from '../../src/layercache/index.ts';
import { formatBytes, UsageError } from '../../src/support/index.ts';
import { confirm } from '../confirm.ts';
import { type OpenRemote, type RemoteFlags, remoteFlags, withRemote, writeJson } from './flags.ts';
import { keptKeys } from './kept-keys.ts';
import {
  entryPolicy,
  entryPolicyFlags,
  type EntryPolicyFlags,
  keepFlags,
  type KeepFlags,
} from './prune-flags.ts';
import { entryTable } from './tables.ts';

interface PruneFlags extends RemoteFlags, EntryPolicyFlags, KeepFlags {
  readonly dryRun: boolean;
  readonly force: boolean;
  readonly verbose: boolean;
}

/** The bounds could not be kept with what may go, or something stays that was to go. */
const partlyDone = 3;

const examples = `
Examples:
  warmer remote prune --unused-for 30d --cache-repo registry.example/team/cache --dry-run
  warmer remote prune --keep-last 3 --force --cache-repo registry.example/team/cache
  warmer remote prune --max-size 50GB --keep-dockerfile Dockerfile --context . --force --cache-repo …
  warmer remote prune --unreachable --force --cache-repo oci:/cache/layer-cache

Conditions are all to be met; bounds end the pruning as soon as they are kept. An entry stays as long as a later one of its
chain does, and when it was made or taken within the grace period. A registry frees the space with its own collector:
docs/remote-cache.md says how for each.

Exit codes: 0 done, 2 usage, 3 the bounds could not be kept with what may go, 4 registry.`;

/** `warmer remote prune`. */
export function remotePruneCommand(signal: AbortSignal, onExitCode: (code: number) => void): Command {
  const command = new Command('prune')
    .description('remove entries of a layer cache by age, last hit, chain and size')
    .allowExcessArguments(false)
    .addHelpText('after', examples)
    .action(async (flags: PruneFlags) => onExitCode(await prune(flags, signal)));
  return addFlags(command, [
    ...remoteFlags(),
    ...entryPolicyFlags(),
    ...keepFlags(),
    booleanFlag('-n, --dry-run', 'only say what would go', false),
    booleanFlag('-f, --force', 'do not ask', false),
    booleanFlag('--verbose', 'name every entry in full', false),
  ]);
}

async function prune(flags: PruneFlags, signal: AbortSignal): Promise<number> {
  const asks = !flags.dryRun && !flags.force;
  if (asks && !(process.stdin.isTTY && process.stderr.isTTY))
    throw new UsageError('nobody can be asked here whether to prune', {
      code: 'E_FORCE_REQUIRED',
      remedy: 'Give --force to prune without asking, or --dry-run to see what would go.',
    });
  // Before the cache is read: what is wrong with a policy or Dockerfile shows at once.
  const policy = entryPolicy(flags, await keptKeys(flags, signal));
  return withRemote(flags, signal, async (remote) => {
    const { store, inventory, progress } = remote;
    const plan = planEntryPrune(inventory, policy);
    if (
      policy.unusedForSeconds !== undefined &&
      inventory.entries.every(({ usedAt }) => usedAt === undefined)
    )
      progress.warn('no hits are recorded here, so every entry counts as unused since it was made');
    if (flags.output === 'table') process.stdout.write(entryTable(plan.remove, flags.verbose));
    if (flags.dryRun) {
      tell(remote, plan, undefined, flags);
      return 0;
    }
    const count = plan.remove.length + plan.removeDamaged.length;
    if (asks && count > 0 && !(await confirm(`Remove these ${count} entries?`, signal))) return 0;
    const graceSeconds = policy.graceSeconds;
    const result =
      count === 0
        ? undefined
        : await pruneEntries(store, inventory, plan, { graceSeconds, progress, signal });
    tell(remote, plan, result, flags);
    return isShort(plan, remote) || (result?.shared.length ?? 0) > 0 ? partlyDone : 0;
  });
}

/** Whether bounds are missed with all that may go. */
function isShort({ missing }: EntryPrunePlan, { progress }: OpenRemote): boolean {
  if (missing.entries === 0 && missing.bytes === 0) return false;
  const what = [
    ...(missing.entries > 0 ? [`${missing.entries} entries`] : []),
    ...(missing.bytes > 0 ? [formatBytes(missing.bytes)] : []),
  ].join(' and ');
  progress.warn(`${what} more would have to go, but what is left may not`);
  return true;
}

function tell(
  { store, inventory }: OpenRemote,
  plan: EntryPrunePlan,
  result: EntryPruneResult | undefined,
  flags: PruneFlags,
): void {
  const { skipped, bytes, kept, missing } = plan;
  if (flags.output === 'json') {
    writeJson({
      dryRun: flags.dryRun,
      location: store.location,
      remove: (result?.removed ?? (flags.dryRun ? plan.remove : [])).map(
        ({ key, instruction, size, digest }) => ({
          ...{ key, instruction, size, digest },
        }),
      ),
      damaged: plan.removeDamaged,
      kept: kept + (result?.spared ?? 0),
      ...{ skipped, reclaimableBytes: bytes, missing },
      spared: result?.spared ?? 0,
      shared: result?.shared ?? [],
      freedBytes: result?.freedBytes ?? 0,
      freedBy: store.freesSpace ? 'kiln' : 'registry',
      otherTags: inventory.alien.length,
    });
    return;
  }
  const lines = [
    ...(skipped.too_young > 0 ? [`Left: ${skipped.too_young} too young`] : []),
    ...(skipped.kept_chain > 0 ? [`Left: ${skipped.kept_chain} of chains that are kept`] : []),
    ...(result !== undefined && result.spared > 0
      ? [`Left: ${result.spared} that builds took meanwhile`]
      : []),
    ...(result?.shared ?? []).map((tag) => `Left: ${tag}, whose manifest has other tags`),
  ];
  const removed = result?.removed.length ?? 0;
  if (flags.dryRun) lines.push(`Would remove ${plan.remove.length} of ${inventory.entries.length} entries`);
  else lines.push(`Removed ${removed} of ${inventory.entries.length} entries`);
  lines.push(
    `Total ${flags.dryRun || !store.freesSpace ? 'reclaimable' : 'reclaimed'} space: ${formatBytes(
      store.freesSpace && result !== undefined ? result.freedBytes : bytes,
    )}`,
  );
  if (!store.freesSpace && !flags.dryRun && removed > 0)
    lines.push('The registry frees it when its own collector runs; see docs/remote-cache.md');
  process.stdout.write(`${lines.join('\n')}\n`);
}
