import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { parseSize, parseSizeOrShare, type SizeOrShare } from '../../src/cli/index.ts';
import {
  type Digest,
  digestOf,
  hostPlatform,
  parsePlatform,
  parseReference,
  parseReferencePattern,
  type Platform,
  type Reference,
  type ReferencePattern,
} from '../../src/oci/index.ts';
import { systemErrorCode, UsageError } from '../../src/support/index.ts';
import {
  type ConfigurationDocument,
  type ImageFields,
  parseConfigurationDocument,
  type RegistryFields,
  type ScheduleFields,
} from './configuration-document.ts';
import { parseDuration, parseInterval, parseShare, type RefreshRule } from './configuration-formats.ts';
import { documentChecks } from './configuration-checks.ts';
import { type ListenAddress, parseListenAddress } from './listen-address.ts';

export type { RefreshRule } from './configuration-formats.ts';

/** How whatever is kept warm is asked for and when. */
export interface WarmingRule {
  readonly refresh: RefreshRule;
  /** Absolute path of a Docker configuration, directory or file. */
  readonly pullSecret: string | undefined;
}

export interface ConfiguredImage extends WarmingRule {
  readonly reference: Reference;
  readonly platforms: readonly Platform[];
  readonly pin: boolean;
}

export interface ConfiguredDockerfile extends WarmingRule {
  /** Absolute. */
  readonly path: string;
  readonly buildArguments: ReadonlyMap<string, string>;
  readonly platforms: readonly Platform[];
}

export interface ConfiguredCacheRepository extends WarmingRule {
  readonly registry: string;
  readonly repository: string;
  /** Entries to keep warm. */
  readonly newest: number;
  readonly platform: Platform;
}

/** What the volume may take; seconds and parts of one. */
export interface DiskPolicy {
  readonly maxSize: SizeOrShare | undefined;
  readonly minFree: SizeOrShare;
  readonly highWaterMark: number;
  readonly lowWaterMark: number;
  readonly unusedForSeconds: number | undefined;
  readonly keepOnDemandSeconds: number;
  readonly intervalSeconds: number;
}

export interface OnDemandPolicy {
  readonly enabled: boolean;
  readonly allow: readonly ReferencePattern[];
  readonly deny: readonly ReferencePattern[];
  readonly concurrency: number;
}

/** Where hits of builds are recorded. */
export interface RecordHitsPolicy {
  readonly repositories: readonly ReferencePattern[];
  /** Absolute path of a Docker configuration that may push. */
  readonly secret: string | undefined;
}

export interface AdoptionPolicy {
  readonly enabled: boolean;
  readonly misses: number;
  readonly windowSeconds: number;
  readonly limit: number;
  readonly unusedForSeconds: number;
}

/** A valid `warmer.yaml`, with its defaults filled in. */
export interface Configuration {
  readonly path: string;
  /** Of the file. */
  readonly digest: Digest;
  readonly images: readonly ConfiguredImage[];
  readonly dockerfiles: readonly ConfiguredDockerfile[];
  readonly cacheRepositories: readonly ConfiguredCacheRepository[];
  readonly registries: readonly RegistryFields[];
  /** For images that builds ask for, and adopted ones. */
  readonly byDefault: WarmingRule;
  readonly disk: DiskPolicy;
  readonly onDemand: OnDemandPolicy;
  readonly adoption: AdoptionPolicy;
  readonly recordHits: RecordHitsPolicy;
  readonly concurrency: {
    readonly images: number;
    /** Fetched. */
    readonly layers: number;
    readonly unpack: number;
  };
  /** Bytes a second. */
  readonly bandwidth: number | undefined;
  readonly listen: {
    /** The socket on the volume, for the builds of the node. */
    readonly socket: boolean;
    readonly http: ListenAddress | undefined;
  };
  readonly firstRoundSeconds: number;
}

/** The text of a configuration file. @throws UsageError `E_CONFIGURATION_NOT_FOUND`. */
export async function readConfigurationText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new UsageError(`the configuration cannot be read (${systemErrorCode(error) ?? 'unknown error'})`, {
      code: 'E_CONFIGURATION_NOT_FOUND',
      where: path,
      remedy: 'Check the path given with --config.',
      cause: error,
    });
  }
}

/**
 * Reads a configuration. Paths in it start at its directory.
 *
 * @param path absolute.
 * @throws ConfigurationError with every mistake, by line and field.
 */
export function parseConfiguration(path: string, text: string): Configuration {
  const document = parseConfigurationDocument(path, text, documentChecks);
  const inDirectory = (file: string): string => resolve(dirname(path), file);
  const platforms = document.platforms?.map(parsePlatform) ?? [hostPlatform()];
  const timeZone = document.timeZone ?? 'UTC';
  const rule = (fields: ScheduleFields & { readonly pullSecret?: string }): WarmingRule => {
    const secret = fields.pullSecret ?? document.pullSecret;
    const refresh: RefreshRule =
      fields.cron === undefined
        ? parseInterval(fields.refresh ?? document.refresh ?? '15m')
        : { kind: 'cron', expression: fields.cron, timeZone };
    return { refresh, pullSecret: secret === undefined ? undefined : inDirectory(secret) };
  };
  return {
    path,
    digest: digestOf(Buffer.from(text)),
    images: (document.images ?? []).map((entry) => {
      const fields: ImageFields = typeof entry === 'string' ? { reference: entry } : entry;
      return {
        ...rule(fields),
        reference: parseReference(fields.reference),
        platforms: fields.platforms?.map(parsePlatform) ?? platforms,
        pin: fields.pin ?? false,
      };
    }),
    dockerfiles: (document.dockerfiles ?? []).map((fields) => ({
      ...rule(fields),
      path: inDirectory(fields.path),
      buildArguments: new Map(Object.entries(fields.buildArgs ?? {})),
      platforms: fields.platforms?.map(parsePlatform) ?? platforms,
    })),
    cacheRepositories: (document.cacheRepositories ?? []).map((fields) => {
      const { registry, repository } = parseReference(fields.repository);
      return { ...rule(fields), registry, repository, newest: fields.newest ?? 50, platform: hostPlatform() };
    }),
    registries: (document.registries ?? []).map((fields) => ({
      ...fields,
      ...paths(fields, ['certificate', 'clientCertificate', 'clientKey'], inDirectory),
    })),
    byDefault: rule({}),
    recordHits: {
      repositories: (document.recordHits?.repositories ?? []).map(parseReferencePattern),
      secret:
        document.recordHits?.secret === undefined
          ? rule({}).pullSecret
          : inDirectory(document.recordHits.secret),
    },
    ...policies(document),
    ...(document.bandwidth === undefined
      ? { bandwidth: undefined }
      : { bandwidth: parseSize(document.bandwidth) }),
    listen: listenOf(document),
    firstRoundSeconds: parseDuration(document.firstRoundTimeout ?? '10m'),
  };
}

function policies(
  document: ConfigurationDocument,
): Pick<Configuration, 'disk' | 'onDemand' | 'adoption' | 'concurrency'> {
  const { disk = {}, onDemand = {}, adoption = {}, concurrency = {} } = document;
  return {
    disk: {
      maxSize: disk.maxSize === undefined ? undefined : parseSizeOrShare(disk.maxSize),
      minFree: parseSizeOrShare(disk.minFree ?? '5%'),
      highWaterMark: parseShare(disk.highWaterMark ?? '80%'),
      lowWaterMark: parseShare(disk.lowWaterMark ?? '75%'),
      unusedForSeconds: disk.unusedFor === undefined ? undefined : parseDuration(disk.unusedFor),
      keepOnDemandSeconds: parseDuration(disk.keepOnDemand ?? '7d'),
      intervalSeconds: parseDuration(disk.interval ?? '10m'),
    },
    onDemand: {
      enabled: onDemand.enabled ?? true,
      allow: (onDemand.allow ?? []).map(parseReferencePattern),
      deny: (onDemand.deny ?? []).map(parseReferencePattern),
      concurrency: onDemand.concurrency ?? 4,
    },
    adoption: {
      enabled: adoption.enabled ?? true,
      misses: adoption.misses ?? 3,
      windowSeconds: parseDuration(adoption.window ?? '24h'),
      limit: adoption.limit ?? 20,
      unusedForSeconds: parseDuration(adoption.unusedFor ?? '7d'),
    },
    concurrency: {
      images: concurrency.images ?? 4,
      layers: concurrency.layers ?? 6,
      unpack: concurrency.unpack ?? 2,
    },
  };
}

function listenOf({ listen = {} }: ConfigurationDocument): Configuration['listen'] {
  const { socket = true, http = true } = listen;
  return {
    socket,
    http: http === false ? undefined : parseListenAddress(http === true ? ':9456' : http),
  };
}

function paths<Name extends string>(
  fields: Readonly<Partial<Record<Name, string>>>,
  names: readonly Name[],
  inDirectory: (file: string) => string,
): Partial<Record<Name, string>> {
  const entries = names.flatMap((name) => {
    const file = fields[name];
    return file === undefined ? [] : [[name, inDirectory(file)] as const];
  });
  return Object.fromEntries(entries) as Partial<Record<Name, string>>;
}
