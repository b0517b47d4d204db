import { KilnError } from '../support/index.ts';
import { type DiffID, isDigest } from './digest.ts';
import type { Descriptor, ImageConfig, Index, Manifest } from './types.ts';

/** Largest manifest, index or configuration accepted, in bytes; registries limit manifests to 4 MiB. */
export const maximumDocumentSize = 4 * 1024 * 1024;

function malformed(what: string, why: string, where?: string): KilnError {
  return new KilnError(`malformed ${what}: ${why}`, { code: 'E_OCI_MALFORMED', category: 'registry', where });
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function parseObject(bytes: Uint8Array, what: string, where?: string): Record<string, unknown> {
  if (bytes.byteLength > maximumDocumentSize)
    throw malformed(what, `larger than ${maximumDocumentSize} bytes`, where);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new KilnError(`malformed ${what}: not JSON`, {
      code: 'E_OCI_MALFORMED',
      category: 'registry',
      where,
      cause,
    });
  }
  if (!isRecord(value)) throw malformed(what, 'not an object', where);
  return value;
}

function checkDescriptor(value: unknown, what: string, where?: string): asserts value is Descriptor {
  if (!isRecord(value)) throw malformed(what, 'a descriptor is missing', where);
  if (typeof value.mediaType !== 'string') throw malformed(what, 'a descriptor has no mediaType', where);
  if (!isDigest(value.digest))
    throw malformed(what, `digest ${JSON.stringify(value.digest)} is not sha256`, where);
  if (!Number.isSafeInteger(value.size) || (value.size as number) < 0)
    throw malformed(what, `size ${JSON.stringify(value.size)} is not a number of bytes`, where);
  if (value.annotations !== undefined && value.annotations !== null && !isStringMap(value.annotations))
    throw malformed(what, 'annotations are not strings', where);
  if (value.platform !== undefined && value.platform !== null && !isPlatform(value.platform))
    throw malformed(what, 'a platform has no os or architecture', where);
}

function isStringMap(value: unknown): value is Record<string, string> {
  return isRecord(value) && Object.values(value).every((member) => typeof member === 'string');
}

function isPlatform(value: unknown): boolean {
  return isRecord(value) && typeof value.os === 'string' && typeof value.architecture === 'string';
}

function isStringList(value: unknown): boolean {
  return value == null || (Array.isArray(value) && value.every((member) => typeof member === 'string'));
}

/**
 * Parses and checks an image manifest (OCI, or Docker schema 2).
 *
 * @throws KilnError `E_OCI_MALFORMED`.
 */
export function decodeManifest(bytes: Uint8Array, where?: string): Manifest {
  const value = parseObject(bytes, 'image manifest', where);
  if (value.schemaVersion !== 2) throw malformed('image manifest', 'schemaVersion is not 2', where);
  checkDescriptor(value.config, 'image manifest', where);
  if (!Array.isArray(value.layers)) throw malformed('image manifest', 'layers is not a list', where);
  for (const layer of value.layers as unknown[]) checkDescriptor(layer, 'image manifest', where);
  return value as unknown as Manifest;
}

/**
 * Parses and checks an image index or Docker manifest list.
 *
 * @throws KilnError `E_OCI_MALFORMED`.
 */
export function decodeIndex(bytes: Uint8Array, where?: string): Index {
  const value = parseObject(bytes, 'image index', where);
  if (value.schemaVersion !== 2) throw malformed('image index', 'schemaVersion is not 2', where);
  if (!Array.isArray(value.manifests)) throw malformed('image index', 'manifests is not a list', where);
  for (const manifest of value.manifests as unknown[]) checkDescriptor(manifest, 'image index', where);
  return value as unknown as Index;
}

/**
 * Parses and checks an image configuration.
 *
 * @throws KilnError `E_OCI_MALFORMED`.
 */
export function decodeConfig(bytes: Uint8Array, where?: string): ImageConfig {
  const value = parseObject(bytes, 'image configuration', where);
  if (!isPlatform(value)) throw malformed('image configuration', 'os or architecture is missing', where);
  const rootfs = value.rootfs;
  if (!isRecord(rootfs) || !(rootfs.diff_ids === null || Array.isArray(rootfs.diff_ids)))
    throw malformed('image configuration', 'rootfs.diff_ids is not a list', where);
  const diffIDs = (rootfs.diff_ids ?? []) as unknown[];
  if (!diffIDs.every(isDigest))
    throw malformed('image configuration', 'a diff_id is not a sha256 digest', where);
  if (value.config != null) checkContainerConfig(value.config, where);
  if (value.history != null && !(Array.isArray(value.history) && value.history.every(isRecord)))
    throw malformed('image configuration', 'history is not a list', where);
  return {
    ...(value as unknown as ImageConfig),
    rootfs: { type: 'layers', diff_ids: diffIDs as DiffID[] },
  };
}

function checkContainerConfig(config: unknown, where?: string): void {
  if (!isRecord(config)) throw malformed('image configuration', 'config is not an object', where);
  for (const field of ['Env', 'Entrypoint', 'Cmd', 'OnBuild', 'Shell'])
    if (!isStringList(config[field]))
      throw malformed('image configuration', `${field} is not a list of strings`, where);
  for (const field of ['User', 'WorkingDir', 'StopSignal'])
    if (config[field] != null && typeof config[field] !== 'string')
      throw malformed('image configuration', `${field} is not a string`, where);
  for (const field of ['ExposedPorts', 'Volumes'])
    if (config[field] != null && !isRecord(config[field]))
      throw malformed('image configuration', `${field} is not an object`, where);
  if (config.Labels != null && !isStringMap(config.Labels))
    throw malformed('image configuration', 'Labels are not strings', where);
}
