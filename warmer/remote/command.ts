import { Command, type Option } from 'commander';
import { addFlags } from '../../src/cli/index.ts';
import { decodeFileList, EntryForest, type InventoryEntry } from '../../src/layercache/index.ts';
import { maximumDocumentSize } from '../../src/oci/index.ts';
import { KilnError, UsageError } from '../../src/support/index.ts';
import { entryDocument, usageOf } from './documents.ts';
import { type RemoteFlags, remoteFlags, verifyKeyFlag, withRemote, writeJson } from './flags.ts';
import { remotePruneCommand } from './prune-command.ts';
import { entryDetails, entryTrees, usageTables } from './tables.ts';

const examples = `
Examples:
  warmer remote ls --cache-repo registry.example/team/cache
  warmer remote du --cache-repo oci:/cache/layer-cache -o json
  warmer remote inspect 3f2a91c07b1e --cache-repo registry.example/team/cache
  warmer remote prune --unused-for 30d --keep-last 3 --dry-run --cache-repo registry.example/team/cache

The cache and what keeps it small are described in docs/remote-cache.md.`;

/** `warmer remote`: the commands about a layer cache in a registry or an OCI layout. */
export function remoteCommand(signal: AbortSignal, onExitCode: (code: number) => void): Command {
  const remote = new Command('remote')
    .description('list and prune a layer cache in a registry')
    .addHelpText('after', examples);
  const list = (name: string, description: string, ...more: readonly Option[]): Command =>
    addFlags(remote.command(name).description(description).allowExcessArguments(false), [
      ...remoteFlags(),
      ...more,
    ]);
  list('ls', 'list the entries of a layer cache, as trees on their bases', verifyKeyFlag()).action(
    (flags: RemoteFlags) => listEntries(flags, signal),
  );
  list('du', 'show how much a layer cache takes, shared blobs counted once').action((flags: RemoteFlags) =>
    showUsage(flags, signal),
  );
  list('inspect', 'show an entry with what it stands on', verifyKeyFlag())
    .argument('<key>', 'the key, or its first digits')
    .action((key: string, flags: RemoteFlags) => inspectEntry(key, flags, signal));
  remote.addCommand(remotePruneCommand(signal, onExitCode));
  return remote;
}

function listEntries(flags: RemoteFlags, signal: AbortSignal): Promise<void> {
  return withRemote(flags, signal, ({ store, inventory, progress }) => {
    const forest = new EntryForest(inventory.entries);
    const { damaged, alien } = inventory;
    if (flags.output === 'json') {
      const entries = inventory.entries.map((entry) => entryDocument(forest, entry));
      writeJson({ location: store.location, entries, damaged, otherTags: alien });
      return;
    }
    process.stdout.write(entryTrees(forest));
    for (const { tag, why } of damaged) progress.warn(`${tag} is damaged: ${why}`);
    if (alien.length > 0) progress.info(`${alien.length} tags of others are not shown`);
  });
}

function showUsage(flags: RemoteFlags, signal: AbortSignal): Promise<void> {
  return withRemote(flags, signal, ({ store, inventory }) => {
    const usage = usageOf(inventory);
    if (flags.output === 'json') writeJson({ location: store.location, ...usage });
    else process.stdout.write(usageTables(usage));
  });
}

function inspectEntry(key: string, flags: RemoteFlags, signal: AbortSignal): Promise<void> {
  return withRemote(flags, signal, async ({ store, inventory }) => {
    const entry = findEntry(key, inventory.entries);
    const forest = new EntryForest(inventory.entries);
    const config = await store.readBlob(entry.config, maximumDocumentSize, signal);
    const files = decodeFileList(JSON.parse(Buffer.from(config).toString('utf8')))?.digests;
    if (flags.output === 'json')
      writeJson({
        ...entryDocument(forest, entry),
        parentChainID: entry.parentChainID,
        diffID: entry.diffID ?? null,
        above: forest.above(entry).map((other) => other.key),
        sameLayer: forest.twins(entry).map((other) => other.key),
        files: files === undefined ? null : Object.fromEntries(files),
      });
    else process.stdout.write(entryDetails(forest, entry, files?.size));
  });
}

function findEntry(text: string, entries: readonly InventoryEntry[]): InventoryEntry {
  const start = text.replace(/^k1-/, '');
  if (!/^[0-9a-f]{4,64}$/.test(start))
    throw new UsageError(`${text} is no key`, { remedy: 'Give at least four digits of one that ls shows.' });
  const [found, other] = entries.filter(({ key }) => key.startsWith(start));
  if (other !== undefined)
    throw new UsageError(`several keys begin with ${start}`, { remedy: 'Give more of its digits.' });
  if (found !== undefined) return found;
  throw new KilnError(`no entry has the key ${start}`, {
    code: 'E_ENTRY_NOT_FOUND',
    category: 'registry',
    remedy: 'See warmer remote ls.',
  });
}
