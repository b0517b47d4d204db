import { InvalidArgumentError, type Option } from 'commander';
import { parseCredentialHelpers, type RegistryOptions, type RegistrySettings } from '../registry/index.ts';
import { type Progress, UsageError } from '../support/index.ts';
import { booleanFlag, listFlag, valueFlag } from './flags.ts';
import { parseRate, parseSize } from './values.ts';

/** What the flags of {@link registryFlags} give. */
export interface RegistryFlags {
  readonly insecurePull: boolean;
  readonly insecureRegistry: readonly string[];
  readonly skipTlsVerifyPull: boolean;
  readonly skipTlsVerifyRegistry: readonly string[];
  readonly registryCertificate: readonly string[];
  readonly registryClientCert: readonly string[];
  readonly registryMirror: readonly string[];
  readonly registryMap: readonly string[];
  readonly skipDefaultRegistryFallback: boolean;
  readonly imageDownloadRetry?: number;
  readonly bandwidth?: number;
  readonly credentialHelpers: readonly string[];
}

/** What the flags of {@link pushFlags} give. */
export interface PushFlags {
  readonly insecure: boolean;
  readonly skipTlsVerify: boolean;
  readonly pushRetry?: number;
  readonly pushChunkSize?: number;
}

/** The flags about registries that every command which speaks to one has. Names and meanings are kaniko's. */
export function registryFlags(): Option[] {
  return [
    listFlag(
      '--registry-mirror <registry>',
      'ask this registry, host[:port][/path], for images of Docker Hub first',
    ),
    listFlag(
      '--registry-map <map>',
      'ask another registry first: original=mirror[/path], several separated by semicolons',
    ),
    booleanFlag(
      '--skip-default-registry-fallback',
      'fail when no mirror has the image, instead of asking the registry itself',
      false,
    ),
    listFlag(
      '--registry-certificate <host=file>',
      'certificates (PEM) that the certificate of this registry may be signed by',
    ),
    listFlag(
      '--registry-client-cert <host=cert,key>',
      'certificate and key (PEM) by which this registry knows us',
    ),
    booleanFlag('--insecure-pull', 'pull images without encryption where there is none', false),
    listFlag('--insecure-registry <host>', 'speak to this registry without encryption if it has none'),
    booleanFlag('--skip-tls-verify-pull', 'accept any certificate when images are pulled', false),
    listFlag('--skip-tls-verify-registry <host>', 'accept any certificate of this registry'),
    valueFlag(
      '--image-download-retry <count>',
      'send requests of a pull again this often (default: 5)',
    ).argParser(parseCount),
    valueFlag(
      '--bandwidth <rate>',
      'move at most so many bytes a second to and from registries, such as 20MB/s (default: no limit)',
    ).argParser(parseRate),
    listFlag(
      '--credential-helpers <name>',
      'identities that may be used: env, google, ecr, acr, gitlab, github; "" for none (default: all)',
    ),
  ];
}

/** The flags about registries of commands that write to one. */
export function pushFlags(): Option[] {
  return [
    booleanFlag(
      '--insecure',
      'push, and keep the layer cache, without encryption where there is none',
      false,
    ),
    booleanFlag('--skip-tls-verify', 'accept any certificate', false),
    valueFlag('--push-retry <count>', 'send requests of a push again this often (default: 5)').argParser(
      parseCount,
    ),
    valueFlag(
      '--push-chunk-size <size>',
      'push blobs in requests of at most this size, such as 64MB, past proxies that limit them (default: whole)',
    ).argParser(parseChunkSize),
  ];
}

/**
 * The options that the flags stand for. kaniko's `KANIKO_REGISTRY_MAP` and `KANIKO_REGISTRY_MIRROR` count too.
 *
 * @throws UsageError naming the flag that cannot be understood.
 */
export function registryOptions(
  flags: RegistryFlags & Partial<PushFlags>,
  progress: Progress,
): RegistryOptions {
  return {
    registries: registrySettings(flags),
    insecurePull: flags.insecurePull,
    skipTlsVerifyPull: flags.skipTlsVerifyPull,
    ...(flags.credentialHelpers.length === 0
      ? {}
      : { credentialHelpers: parseCredentialHelpers(flags.credentialHelpers) }),
    progress,
    ...given({
      insecure: flags.insecure,
      skipTlsVerify: flags.skipTlsVerify,
      pullRetries: flags.imageDownloadRetry,
      pushRetries: flags.pushRetry,
      chunkSize: flags.pushChunkSize,
      bytesPerSecond: flags.bandwidth,
    }),
  };
}

function registrySettings(flags: RegistryFlags): Map<string, RegistrySettings> {
  const settings = new Map<string, RegistrySettings>();
  const add = (host: string, more: RegistrySettings): void => {
    const name = /^(?:index|registry-1)\.docker\.io$/.test(host) ? 'docker.io' : host;
    const before = settings.get(name);
    const mirrors = [...(before?.mirrors ?? []), ...(more.mirrors ?? [])];
    settings.set(name, { ...before, ...more, ...(mirrors.length === 0 ? {} : { mirrors }) });
  };
  for (const host of flags.insecureRegistry) add(host, { insecure: true });
  for (const host of flags.skipTlsVerifyRegistry) add(host, { skipTlsVerify: true });
  for (const text of flags.registryCertificate) {
    const [host, certificate] = splitPair(text, 'registry-certificate', 'registry.example=FILE');
    add(host, { certificate });
  }
  for (const text of flags.registryClientCert) {
    const form = 'registry.example=CERTIFICATE,KEY';
    const [host, files] = splitPair(text, 'registry-client-cert', form);
    const [certificate = '', key = '', ...rest] = files.split(',');
    if (certificate === '' || key === '' || rest.length > 0)
      throw malformed(text, 'registry-client-cert', form);
    add(host, { clientCertificate: { certificate, key } });
  }
  const fallback = flags.skipDefaultRegistryFallback ? { fallback: false } : {};
  for (const text of [...flags.registryMap, ...environmentList('KANIKO_REGISTRY_MAP')])
    for (const entry of text.split(';').filter((part) => part !== '')) {
      const [host, mirror] = splitPair(entry, 'registry-map', 'registry.example=mirror.example');
      add(host, { mirrors: [mirror], ...fallback });
    }
  for (const mirror of [...flags.registryMirror, ...environmentList('KANIKO_REGISTRY_MIRROR')])
    add('docker.io', { mirrors: [mirror], ...fallback });
  return settings;
}

function environmentList(name: string): string[] {
  const value = process.env[name];
  return value === undefined || value === '' ? [] : [value];
}

function splitPair(text: string, flag: string, form: string): [string, string] {
  const equals = text.indexOf('=');
  if (equals <= 0 || equals === text.length - 1) throw malformed(text, flag, form);
  return [text.slice(0, equals), text.slice(equals + 1)];
}

function malformed(text: string, flag: string, form: string): UsageError {
  return new UsageError(`--${flag} ${text} cannot be understood`, {
    remedy: `Write it as --${flag} ${form}.`,
  });
}

function parseChunkSize(text: string): number {
  const size = parseSize(text);
  if (size < 64 * 1024) throw new UsageError(`--push-chunk-size ${text} is less than 64KiB`, {});
  return size;
}

function parseCount(text: string): number {
  if (!/^[0-9]{1,3}$/.test(text)) throw new InvalidArgumentError('It must be a number from 0 to 999.');
  return Number(text);
}

/** Only the members that have a value. */
function given<Members extends object>(
  members: Members,
): { [Name in keyof Members]?: Exclude<Members[Name], undefined> } {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined)) as ReturnType<
    typeof given<Members>
  >;
}
