import { createHash, type KeyObject, verify } from 'node:crypto';
import { canonicalJson } from '../support/index.ts';
import type { CacheEntry } from './entry.ts';

/** What a signature of an entry covers: everything of it that decides what is in an image, and when and by what it was made. */
export type SignedEntry = Pick<CacheEntry, 'key' | 'parentChainID' | 'layer' | 'created' | 'creator'>;

/** A signature as it is stored with an entry. */
export interface EntrySignature {
  /** Of the public key, as the signer says; undefined when it does not know. A hint only: it is not signed. */
  readonly keyID: string | undefined;
  readonly value: Buffer;
}

/** First line of what is signed, so that no signature made for something else is ever one of an entry. */
const domain = 'dev.kiln.cache.entry-signature/v1\n';
const form = /^v1 ed25519 ([0-9a-f]{32}|-) ([A-Za-z0-9+/]{86}==)$/;

/** The bytes that are signed: a domain and version, and the canonical JSON of what is covered. */
export function signedBytes({ key, parentChainID, layer, created, creator }: SignedEntry): Buffer {
  const covered = {
    key,
    parentChainID,
    layer:
      layer === null
        ? null
        : {
            diffID: layer.diffID,
            mediaType: layer.descriptor.mediaType,
            digest: layer.descriptor.digest,
            size: layer.descriptor.size,
          },
    created: created.toISOString(),
    creator,
  };
  return Buffer.from(domain + canonicalJson(covered));
}

/** A signature as an annotation. */
export function encodeSignature({ keyID = '-', value }: EntrySignature): string {
  return `v1 ed25519 ${keyID} ${value.toString('base64')}`;
}

/** Reads a signature; undefined for anything else, which is as good as none. */
export function decodeSignature(text: unknown): EntrySignature | undefined {
  const [, keyID, value] = (typeof text === 'string' ? form.exec(text) : null) ?? [];
  if (keyID === undefined || value === undefined) return undefined;
  return { keyID: keyID === '-' ? undefined : keyID, value: Buffer.from(value, 'base64') };
}

/** How a key is called: the first 32 hexadecimal digits of SHA-256 over its SubjectPublicKeyInfo (DER). */
export function keyIDOf(publicKey: KeyObject): string {
  const der = publicKey.export({ type: 'spki', format: 'der' });
  return createHash('sha256').update(der).digest('hex').slice(0, 32);
}

/** Public keys whose signatures are believed. */
export class TrustedKeys {
  readonly #keys: ReadonlyMap<string, KeyObject>;

  /** @param keys of the kind ed25519. */
  constructor(keys: readonly KeyObject[]) {
    this.#keys = new Map(keys.map((key) => [keyIDOf(key), key]));
  }

  has(keyID: string): boolean {
    return this.#keys.has(keyID);
  }

  /** The id of the key that signed an entry; undefined when none of these did. */
  signerOf(entry: SignedEntry, signature: EntrySignature | undefined): string | undefined {
    if (signature === undefined) return undefined;
    const bytes = signedBytes(entry);
    const named = this.#keys.get(signature.keyID ?? '');
    const candidates = named === undefined ? [...this.#keys.values()] : [named];
    const key = candidates.find((candidate) => verify(null, bytes, candidate, signature.value));
    return key === undefined ? undefined : keyIDOf(key);
  }
}

/** Signs entries. */
export interface EntrySigner {
  /** Of its public key, where it is known beforehand. */
  readonly keyID: string | undefined;
  /** Whether it runs a program for it. */
  readonly runsProgram: boolean;
  /** @throws KilnError `E_CACHE_SIGNING`. */
  sign(entry: SignedEntry, signal?: AbortSignal): Promise<EntrySignature>;
}

/** Who signs what a cache stores, and whose signature it wants of what it gives. */
export interface CacheTrust {
  /** Undefined: what is stored is not signed. */
  readonly signer?: EntrySigner | undefined;
  /** Undefined: signatures are not looked at. */
  readonly trusted?: TrustedKeys | undefined;
}
