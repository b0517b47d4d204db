import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import PQueue from 'p-queue';
import {
  baseKeyOf,
  type CacheKey,
  describeKey,
  encodeEntry,
  type EntryBase,
  keyTag,
  stepKey,
} from '../src/layercache/index.ts';
import { type ChainID, type DiffID, extendChain, mediaTypes } from '../src/oci/index.ts';
import { RegistryFiles } from '../test/support/registry-files.ts';
import { startRegistry, type TestRegistry } from '../test/support/registry.ts';
import { kiln, median } from './support.ts';

/**
 * A cache of 5,000 entries in a registry: 100 lines of three chains each, the lower eight entries of which all three share,
 * and above them 14 of each chain's own. `warmer remote ls` and `prune --dry-run` as whole processes, their memory,
 * a prune that keeps the newest chain of each line, and what the registry's collector then frees.
 *
 * The registry's files are written as docker-registry does, since pushing 5,000 entries would take longer than all else.
 */
const lines = 100;
const versions = 3;
const shared = 8;
/** Lines whose oldest chain goes. */
const old = 3;
const wanted = 5000;
const layerBytes = 2000;
/** Lines that are written at the same time. */
const linesAtOnce = 16;

await using registry = await startRegistry();
const cache = `${registry.host}/cache`;
const filling = performance.now();
const facts = await fill(registry);
console.log(
  `${facts.entries} entries of ${lines * versions} chains, ${(facts.bytes / 1e6).toFixed(1)} MB, ` +
    `written in ${((performance.now() - filling) / 1000).toFixed(0)} s`,
);
const remote = (command: string, ...args: readonly string[]): ReturnType<typeof kiln> =>
  kiln('warmer', ['remote', command, '--cache-repo', cache, ...args]);
const policy = ['--older-than', '550h'];
for (const [what, run] of [
  ['warmer remote ls', () => remote('ls')],
  ['warmer remote du', () => remote('du')],
  ['warmer remote prune --keep-last 1 --dry-run', () => remote('prune', '--keep-last', '1', '--dry-run')],
] as const) {
  const costs = [];
  for (let round = 0; round < 3; round++) costs.push(await run());
  const seconds = median(costs.map((cost) => cost.seconds));
  const memory = Math.max(...costs.map(({ peakMemory }) => peakMemory));
  console.log(
    `${what}: median ${seconds.toFixed(1)} s of ${costs.length} (goal 20), ` +
      `at most ${(memory / 1e6).toFixed(0)} MB resident (goal 150)`,
  );
}

const pruned = await remote('prune', ...policy, '--force', '-o', 'json');
const { remove, kept, reclaimableBytes } = JSON.parse(pruned.output.slice(pruned.output.indexOf('{'))) as {
  remove: readonly { key: CacheKey }[];
  kept: number;
  reclaimableBytes: number;
};
console.log(`prune of ${remove.length} entries: ${pruned.seconds.toFixed(1)} s, ${kept} kept`);
const gone = new Set(remove.map(({ key }) => key));
const wrong = facts.all.filter(({ key, stays }) => stays === gone.has(key));
if (wrong.length > 0 || kept !== facts.all.length - gone.size)
  throw new Error(`${wrong.length} entries are not as the policy says`);
const before = blobBytes(registry);
execFileSync('docker-registry', ['garbage-collect', registry.configuration], {
  stdio: 'ignore',
  maxBuffer: 1e9,
});
const freed = before - blobBytes(registry);
console.log(`freed by the registry's collector: ${freed} bytes, ${reclaimableBytes} were said`);
if (freed !== reclaimableBytes) throw new Error('that is not the same');

/** Bytes of all blobs, without the directories that they lie in. */
function blobBytes({ storage }: TestRegistry): number {
  const directory = join(storage, 'docker/registry/v2/blobs');
  const sizes = execFileSync('find', [directory, '-type', 'f', '-printf', '%s\n'], {
    encoding: 'utf8',
    maxBuffer: 1e9,
  });
  return sizes.split('\n').reduce((sum, size) => sum + Number(size), 0);
}

interface Filled {
  readonly entries: number;
  readonly bytes: number;
  readonly all: readonly { readonly key: CacheKey; readonly stays: boolean }[];
}

async function fill({ storage }: TestRegistry): Promise<Filled> {
  const files = new RegistryFiles(storage, 'cache');
  const base: EntryBase = { name: 'debian:bookworm', chainID: null, platform: 'linux/amd64' };
  const all: { key: CacheKey; stays: boolean }[] = [];
  const own = (wanted / lines - shared) / versions;
  // The registry's files are many and small: one after the other they would take longer than all that is measured.
  const writers = new PQueue({ concurrency: linesAtOnce });
  const fillLine = async (line: number): Promise<void> => {
    let below: { key: CacheKey; chain: ChainID | null } = { key: baseKeyOf(base), chain: base.chainID };
    const entry = async (name: string, hoursAgo: number, stays: boolean): Promise<void> => {
      const definition = {
        kind: 'run',
        parent: below.key,
        argv: ['/bin/sh', '-c', `${name} of line ${line}`],
        // As many variables as an image has that sets some.
        env: Object.fromEntries(Array.from({ length: 12 }, (_, index) => [`VARIABLE_${index}`, 'value'])),
        user: '',
        workingDirectory: '/src',
      } as const;
      const key = stepKey(definition);
      const content = Buffer.alloc(layerBytes, `${key}\n`);
      const digest = await files.blob(content);
      const encoded = encodeEntry({
        key,
        parentChainID: below.chain,
        layer: {
          descriptor: { mediaType: mediaTypes.ociLayerTar, digest, size: content.length },
          diffID: digest as DiffID,
        },
        created: new Date(Date.now() - hoursAgo * 3600_000),
        creator: 'bench',
        createdBy: `RUN ${name} of line ${line}`,
        origin: { line: `registry.example/team/app${line} Dockerfile build`, base },
        description: describeKey(definition),
      });
      await files.blob(encoded.configBytes);
      await files.manifest(keyTag(key), encoded.manifestBytes);
      all.push({ key, stays });
      below = { key, chain: extendChain(below.chain ?? undefined, digest as DiffID) };
    };
    for (let step = 0; step < shared; step++) await entry(`shared ${step}`, 500, true);
    const fork = below;
    for (let version = 0; version < versions; version++) {
      below = fork;
      for (let step = 0; step < own; step++)
        await entry(
          `step ${step} of version ${version}`,
          version === 0 && line < old ? 600 : 400 - version * 100,
          version > 0 || line >= old,
        );
    }
  };
  await writers.addAll(Array.from({ length: lines }, (_, line) => () => fillLine(line)));
  return { entries: all.length, bytes: files.bytes, all };
}
