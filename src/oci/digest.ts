import { createHash } from 'node:crypto';
import { KilnError } from '../support/index.ts';

declare const digestBrand: unique symbol;
declare const diffIDBrand: unique symbol;
declare const chainIDBrand: unique symbol;

/** A content digest as of the OCI image specification ("Digests"): `sha256:` and 64 hexadecimal digits. */
export type Digest = string & { readonly [digestBrand]: true };

/** The digest of a layer's uncompressed tar stream (OCI image specification, "Layer DiffID"). */
export type DiffID = Digest & { readonly [diffIDBrand]: true };

/** The digest that names a stack of layers applied in order (OCI image specification, "Layer ChainID"). */
export type ChainID = Digest & { readonly [chainIDBrand]: true };

const digestPattern = /^sha256:[0-9a-f]{64}$/;

export function isDigest(text: unknown): text is Digest {
  return typeof text === 'string' && digestPattern.test(text);
}

/**
 * Checks that `text` is a sha256 digest.
 *
 * @throws KilnError `E_DIGEST_INVALID`; digests name files, so nothing else may pass.
 */
export function parseDigest(text: unknown, where?: string): Digest {
  if (isDigest(text)) return text;
  throw new KilnError(`invalid digest ${JSON.stringify(text)}: expected sha256:<64 hexadecimal digits>`, {
    code: 'E_DIGEST_INVALID',
    category: 'registry',
    where,
  });
}

/** The 64 hexadecimal digits of a digest. */
export function digestHex(digest: Digest): string {
  return digest.slice('sha256:'.length);
}

/** The digest of bytes held in memory. */
export function digestOf(data: string | Uint8Array): Digest {
  return `sha256:${createHash('sha256').update(data).digest('hex')}` as Digest;
}

/**
 * The ChainIDs of a stack of layers: element `i` names the layers 0 to `i`
 * (OCI image specification, config.md, "Layer ChainID").
 */
export function chainIDs(diffIDs: readonly DiffID[]): ChainID[] {
  const chain: ChainID[] = [];
  for (const diffID of diffIDs) chain.push(extendChain(chain.at(-1), diffID));
  return chain;
}

/** The ChainID of the layers named by `parent` (undefined: none) with one more on top. */
export function extendChain(parent: ChainID | undefined, diffID: DiffID): ChainID {
  return (parent === undefined ? diffID : digestOf(`${parent} ${diffID}`)) as ChainID;
}
