import { createHash } from 'node:crypto';
import type { ChainID, Digest, Platform } from '../oci/index.ts';
import { formatPlatform } from '../oci/index.ts';
import { canonicalJson, type CanonicalValue } from '../support/index.ts';

declare const keyBrand: unique symbol;

/** What a step's result is found by: 64 hexadecimal digits. */
export type CacheKey = string & { readonly [keyBrand]: true };

/** Version of the meaning of keys; it is part of every tag, so a change of meaning is a new version. */
export const keySchema = 'k1';

/** Flags of COPY that are in its key only when they are given. */
interface CopyFlags {
  readonly parents?: true;
  readonly excludes?: readonly string[];
  /** Of ADD, what it takes from elsewhere: digests of files, commits of repositories. */
  readonly remotes?: readonly CanonicalValue[];
  /** The latest time in a layer of `--link`, which no base below it tells. */
  readonly clampTime?: number;
  /** Paths that its layer has not, likewise. */
  readonly ignored?: readonly string[];
}

/** Everything that decides what a step makes (DESIGN: docs/cache-keys.md). */
export type KeyDefinition =
  | {
      readonly kind: 'base';
      readonly chainID: ChainID | null;
      readonly platform: Platform;
      /** The latest time in the layers made on it, in seconds since 1970. Undefined, and not in the key: there is none. */
      readonly clampTime?: number | undefined;
      /** Absolute paths, sorted, that are in none of these layers. In the key only when there are any. */
      readonly ignored?: readonly string[] | undefined;
    }
  | {
      readonly kind: 'run';
      readonly parent: CacheKey;
      /** After the shell form is applied. */
      readonly argv: readonly string[];
      /** Values of all ARG and ENV in the step's environment. */
      readonly env: Readonly<Record<string, string>>;
      readonly user: string;
      readonly workingDirectory: string;
      /** These three are in the key only where a RUN has them. Mounts are as `describeMount` of the executor makes them. */
      readonly mounts?: readonly CanonicalValue[];
      /** A here-document that is run as a program. */
      readonly files?: readonly { readonly name: string; readonly content: string }[];
      readonly network?: 'none';
    }
  | ({
      readonly kind: 'copy';
      /** Null for `--link`, whose layer does not depend on what is below it. */
      readonly parent: CacheKey | null;
      readonly destination: string;
      readonly chown: string | null;
      readonly chmod: string | null;
      /** Of the matched files; null when all sources are here-documents. */
      readonly content: Digest | null;
      readonly files: readonly { readonly name: string; readonly content: string }[];
      readonly unpackArchives: boolean;
      readonly keepOwners: boolean;
    } & CopyFlags)
  | ({
      readonly kind: 'copy-from';
      /** As that of `copy`. */
      readonly parent: CacheKey | null;
      /** The key of the last step of the source stage, or of the source image. */
      readonly source: CacheKey;
      readonly patterns: readonly string[];
      readonly destination: string;
      readonly chown: string | null;
      readonly chmod: string | null;
    } & CopyFlags)
  /** What is below a step that comes after one with `--link`, whose own key does not tell. */
  | { readonly kind: 'link'; readonly parent: CacheKey; readonly layer: CacheKey }
  | { readonly kind: 'workdir'; readonly parent: CacheKey; readonly path: string; readonly user: string };

/**
 * The definition as it is stored and hashed: values of ARG and ENV, and the text of here-documents, only as hashes, so
 * that no secret is in a registry and the stored object still proves the key.
 */
export function describeKey(definition: KeyDefinition): CanonicalValue {
  switch (definition.kind) {
    case 'base': {
      const { kind, chainID, platform, clampTime, ignored = [] } = definition;
      return {
        ...{ kind, chainID, platform: formatPlatform(platform) },
        ...(clampTime === undefined ? {} : { clampTime }),
        ...(ignored.length === 0 ? {} : { ignored }),
      };
    }
    case 'run': {
      const env = Object.fromEntries(
        Object.entries(definition.env).map(([name, value]) => [name, hashText(value)]),
      );
      const { files } = definition;
      return { ...definition, env, ...(files === undefined ? {} : { files: hashFiles(files) }) };
    }
    case 'copy':
      return { ...definition, files: hashFiles(definition.files) };
    case 'copy-from':
    case 'link':
    case 'workdir':
      return { ...definition };
  }
}

/** The key of a definition. */
export function stepKey(definition: KeyDefinition): CacheKey {
  return keyOfDescription(describeKey(definition));
}

/** The key that a stored description proves. */
export function keyOfDescription(description: CanonicalValue): CacheKey {
  return createHash('sha256')
    .update(`${keySchema}\n`)
    .update(canonicalJson(description))
    .digest('hex') as CacheKey;
}

/** The tag of a key's entry. */
export function keyTag(key: CacheKey): string {
  return `${keySchema}-${key}`;
}

/** The key whose entry a tag names; undefined for a tag of another kind. */
export function keyOfTag(tag: string): CacheKey | undefined {
  const [, schema, key] = /^([a-z0-9]+)-([0-9a-f]{64})$/.exec(tag) ?? [];
  return schema === keySchema ? (key as CacheKey) : undefined;
}

function hashFiles(
  files: readonly { readonly name: string; readonly content: string }[],
): readonly CanonicalValue[] {
  return files.map(({ name, content }) => ({ name, content: hashText(content) }));
}

function hashText(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
