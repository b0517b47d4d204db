import { Readable } from 'node:stream';
import type { Layer } from '../../src/layer/index.ts';
import {
  baseKeyOf,
  type CacheKey,
  describeKey,
  type EntryBase,
  type KeyDefinition,
  type LayerCache,
  stepKey,
} from '../../src/layercache/index.ts';
import { type ChainID, type DiffID, digestOf, extendChain, mediaTypes } from '../../src/oci/index.ts';

export const testBase: EntryBase = { name: 'busybox:1', chainID: null, platform: 'linux/amd64' };

/** A layer of these bytes, which is no archive: nothing here unpacks it. */
export function fakeLayer(content: string): Layer {
  const bytes = Buffer.from(content);
  const digest = digestOf(bytes);
  const open = (): Promise<Readable> => Promise.resolve(Readable.from([bytes]));
  return {
    digest,
    diffID: digest as DiffID,
    size: bytes.length,
    mediaType: mediaTypes.ociLayerTar,
    compressed: open,
    uncompressed: open,
  };
}

export interface TestStep {
  /** What it runs, and with `result` what it makes. */
  readonly run: string;
  /** Content of its layer (default: that of `run`); null: it changes nothing. */
  readonly result?: string | null;
  readonly hoursAgo?: number;
  /** For a copy from a stage: the key of the stage's last step. */
  readonly from?: CacheKey;
}

export interface TestChain {
  readonly line?: string;
  readonly base?: EntryBase;
  readonly steps: readonly TestStep[];
}

/** Stores the entries of one stage as a build would. @returns their keys, lowest first. */
export async function storeChain(
  cache: LayerCache,
  { line, base = testBase, steps }: TestChain,
): Promise<CacheKey[]> {
  const keys: CacheKey[] = [];
  let chain: ChainID | null = base.chainID;
  for (const { run, result = run, hoursAgo = 0, from } of steps) {
    const definition = stepDefinition(keys.at(-1) ?? baseKeyOf(base), run, from);
    const key = stepKey(definition);
    const layer = result === null ? undefined : fakeLayer(result);
    await cache.store(
      {
        key,
        parentChainID: chain,
        created: new Date(Date.now() - hoursAgo * 3600_000),
        createdBy: `RUN ${run}`,
        description: describeKey(definition),
        ...(line === undefined ? {} : { origin: { line, base } }),
      },
      layer,
    );
    if (layer !== undefined) chain = extendChain(chain ?? undefined, layer.diffID);
    keys.push(key);
  }
  return keys;
}

function stepDefinition(parent: CacheKey, text: string, source: CacheKey | undefined): KeyDefinition {
  if (source === undefined)
    return { kind: 'run', parent, argv: ['/bin/sh', '-c', text], env: {}, user: '', workingDirectory: '/' };
  return {
    kind: 'copy-from',
    parent,
    source,
    patterns: ['/out'],
    destination: text,
    chown: null,
    chmod: null,
  };
}
