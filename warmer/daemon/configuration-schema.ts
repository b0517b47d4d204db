/*
 * The shape of `warmer.yaml`, in one place: the daemon validates with it, editors complete with it, and
 * `deploy/warmer.schema.json` is its copy (JSON Schema, draft 7). The formats are those of configuration-formats.ts.
 */

const duration = (description: string, fallback?: string): object => ({
  description: `${description} A duration such as 15m, 6h or 7d.`,
  type: 'string',
  format: 'duration',
  ...(fallback === undefined ? {} : { default: fallback }),
});

const count = (description: string, fallback: number, maximum = 1000): object => ({
  description,
  type: 'integer',
  minimum: 1,
  maximum,
  default: fallback,
});

const listOf = (description: string, items: object): object => ({ description, type: 'array', items });

const record = (
  description: string,
  properties: Readonly<Record<string, object>>,
  required: readonly string[] = [],
): object => ({ description, type: 'object', additionalProperties: false, required, properties });

const platforms = listOf(
  'Platforms to keep warm, as os/architecture[/variant]. Default: the top-level platforms.',
  {
    type: 'string',
    format: 'platform',
  },
);

const pullSecret = {
  description:
    "Docker configuration with the credentials: a directory with config.json or .dockerconfigjson (a mounted Secret), or the file itself. Relative paths start at this file's directory.",
  type: 'string',
  format: 'path',
};

const refresh = {
  description:
    'How often the registry is asked whether the tag has moved: a duration, or "never". Digests are never asked about. Default: the top-level refresh.',
  type: 'string',
  format: 'interval',
};

const cron = {
  description: 'When the registry is asked, as a cron expression with five fields, instead of refresh.',
  type: 'string',
  format: 'cron',
};

const schedule = { refresh, cron };

const image = {
  description: 'An image to keep warm: its reference, or a reference with settings of its own.',
  type: ['string', 'object'],
  format: 'reference',
  additionalProperties: false,
  required: ['reference'],
  properties: {
    reference: {
      description: 'As in FROM: debian:bookworm, registry.example/team/base@sha256:…',
      type: 'string',
      format: 'reference',
    },
    platforms,
    ...schedule,
    pin: {
      description: 'Pin the image on the volume, so that no prune takes it, whoever runs it.',
      type: 'boolean',
      default: false,
    },
    pullSecret,
  },
};

const dockerfile = record(
  'A Dockerfile whose bases are kept warm: every image that any of its stages names in FROM or COPY --from.',
  {
    path: {
      description: "The file; relative paths start at this file's directory. It is watched for changes.",
      type: 'string',
      format: 'path',
    },
    buildArgs: {
      description: 'Values of ARGs that its FROM lines use.',
      type: 'object',
      additionalProperties: { type: 'string' },
    },
    platforms,
    ...schedule,
    pullSecret,
  },
  ['path'],
);

const cacheRepository = record(
  'A cache repository (the --cache-repo of builds) whose newest entries are kept warm, so that a hit is a mount too.',
  {
    repository: {
      description: 'Such as registry.example/team/app/cache.',
      type: 'string',
      format: 'repository',
    },
    newest: count('How many entries, those made or used last.', 50, 10_000),
    refresh,
    cron,
    pullSecret,
  },
  ['repository'],
);

const registry = record(
  'How one registry is reached.',
  {
    host: { description: 'Its host and port, as in references.', type: 'string', format: 'host' },
    mirrors: listOf(
      'Registries that are asked for its images in its place, in this order: host[:port][/path], with http:// before it for plain HTTP.',
      { type: 'string', format: 'mirror' },
    ),
    fallback: {
      description: 'Ask the registry itself when no mirror has the image.',
      type: 'boolean',
      default: true,
    },
    insecure: { description: 'Speak plain HTTP to it.', type: 'boolean', default: false },
    skipTlsVerify: { description: 'Accept any certificate of it.', type: 'boolean', default: false },
    certificate: {
      description: 'File of PEM certificates that its certificate may be signed by.',
      type: 'string',
      format: 'path',
    },
    clientCertificate: { description: 'Our own certificate, a PEM file.', type: 'string', format: 'path' },
    clientKey: { description: 'The key of our own certificate, a PEM file.', type: 'string', format: 'path' },
  },
  ['host'],
);

const sizeOrShare = (description: string, fallback?: string): object => ({
  description: `${description} A size such as 100GB or 200GiB, or a part of the file system such as 20%.`,
  type: 'string',
  format: 'size-or-share',
  ...(fallback === undefined ? {} : { default: fallback }),
});

const waterMark = (description: string, fallback: string): object => ({
  description,
  type: 'string',
  format: 'share',
  default: fallback,
});

const disk = record('What the volume may take. What is configured is never removed, nor what a build uses.', {
  maxSize: sizeOrShare('The volume is pruned to this size, and no pull makes it larger.'),
  minFree: sizeOrShare('No pull leaves less than this free on the file system.', '5%'),
  highWaterMark: waterMark('When the file system is fuller than this, images are removed …', '80%'),
  lowWaterMark: waterMark('… those unused for longest first, until it is less full than this.', '75%'),
  unusedFor: duration('Images that nothing here names are removed when no build used them for this long.'),
  keepOnDemand: duration('Images that builds asked for are kept this long after their last use.', '7d'),
  interval: duration('How often the policy is applied, besides before and after pulls.', '10m'),
});

const patterns = (description: string): object =>
  listOf(`${description} * is any part of one component, ** is anything.`, {
    type: 'string',
    format: 'reference-pattern',
  });

const onDemand = record(
  'Images that builds may ask for over the socket. What is configured is always allowed.',
  {
    enabled: { description: 'Bring such images at all.', type: 'boolean', default: true },
    allow: patterns('What may be asked for; by default nothing.'),
    deny: patterns('Exceptions from allow.'),
    concurrency: count('Images brought for builds at the same time; more wait.', 4),
  },
);

const adoption = record('Images that builds miss again and again are kept warm without being configured.', {
  enabled: {
    description: 'Adopt at all. Only what onDemand allows is adopted.',
    type: 'boolean',
    default: true,
  },
  misses: count('Builds that must have missed the image …', 3),
  window: duration('… within this time.', '24h'),
  limit: count('Images that are adopted at most.', 20),
  unusedFor: duration('Dropped again when no build used them for this long.', '7d'),
});

const recordHits = record(
  'What builds hit in layer caches is recorded there, so that warmer remote prune knows what is in use.',
  {
    repositories: patterns('Cache repositories in which hits are recorded; by default none.'),
    secret: {
      description: 'Directory or file of a Docker configuration that may push to them. Default: pullSecret.',
      type: 'string',
      minLength: 1,
    },
  },
);

const concurrency = record('What is done at the same time. Memory grows with the number of layers.', {
  images: count('Images pulled on schedule.', 4),
  layers: count('Layers fetched, whatever images they belong to.', 6),
  unpack: count('Layers unpacked, if there are so many processors.', 2),
});

const listen = record('Where the daemon answers.', {
  socket: {
    description: 'Serve the builds of this node over warmer.sock on the volume.',
    type: 'boolean',
    default: true,
  },
  http: {
    description: 'Metrics, health and the status page: an address such as :9456 or 127.0.0.1:9456, or false.',
    type: ['boolean', 'string'],
    format: 'address',
    default: ':9456',
  },
});

export const configurationSchema = {
  $schema: 'http://json-schema.org/draft-07/schema#',
  title: 'Configuration of warmer daemon (warmer.yaml)',
  type: 'object',
  additionalProperties: false,
  properties: {
    images: listOf('Images to keep warm.', image),
    dockerfiles: listOf('Dockerfiles whose bases are kept warm.', dockerfile),
    cacheRepositories: listOf('Cache repositories whose newest entries are kept warm.', cacheRepository),
    platforms: {
      ...platforms,
      description: "Platforms of everything that names none. Default: this machine's.",
      minItems: 1,
    },
    refresh: {
      ...refresh,
      description: 'How often tags are asked about, where nothing else is said.',
      default: '15m',
    },
    timeZone: {
      description: 'Time zone of cron expressions, such as Europe/Berlin.',
      type: 'string',
      format: 'time-zone',
      default: 'UTC',
    },
    pullSecret: { ...pullSecret, description: `${pullSecret.description} For everything that names none.` },
    registries: listOf('How registries are reached.', registry),
    disk,
    onDemand,
    adoption,
    recordHits,
    concurrency,
    bandwidth: {
      description: 'Bytes a second that all pulls together may take, such as 50MB. Default: no limit.',
      type: 'string',
      format: 'size',
    },
    listen,
    firstRoundTimeout: duration(
      'The daemon is ready when everything configured is warm, or when this has passed since its start.',
      '10m',
    ),
  },
} as const;
