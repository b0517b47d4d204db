import { basename, normalize, resolve } from 'node:path';
import type { Option } from 'commander';
import { booleanFlag, listFlag, parsePairs, valueFlag } from '../src/cli/index.ts';
import { formatPlatform, parseBuildPlatform, type Platform, type Reference } from '../src/oci/index.ts';
import { UsageError } from '../src/support/index.ts';
import { dockerfileName } from './context/index.ts';
import {
  accessOf,
  type ContextAddress,
  contextName,
  parseBuildContext,
  parseGitFlags,
} from './context/kinds/index.ts';
import { parseBuildContexts } from './named-contexts.ts';
import type { ContextOptions, SourceOptions } from './options.ts';
import { sourceDate, withSourceDate } from './source-date.ts';

/** What the flags of {@link contextFlags} give. */
export interface ContextFlags {
  readonly context: string;
  readonly contextSubPath?: string;
  readonly bucket?: string;
  readonly git: readonly string[];
  readonly dockerfile: string;
}

/** What the flags of {@link sourceFlags} give. */
export interface SourceFlags extends ContextFlags {
  readonly buildContext: readonly string[];
  readonly target?: string;
  readonly buildArg: readonly string[];
  readonly platform: readonly string[];
  readonly customPlatform: readonly string[];
  readonly ignorePath: readonly string[];
  readonly reproducible?: boolean;
}

const defaultContext = '.';

/** The flags that say where the context and the Dockerfile are. */
export function contextFlags(): Option[] {
  return [
    valueFlag(
      '-c, --context <address>',
      'the build context: a directory, tar://FILE, tar://stdin, git://, https://, s3://, gs:// (docs/contexts.md)',
    ).default(defaultContext),
    valueFlag('--context-sub-path <path>', 'build from this directory of the context'),
    valueFlag('-b, --bucket <name>', 'deprecated: --context gs://NAME').hideHelp(),
    listFlag(
      '--git <key=value>',
      'of a context that is a repository: branch, depth, recurse-submodules, keep-git-dir, insecure-skip-tls, ssh-key, ssh-known-hosts',
    ),
    valueFlag(
      '-f, --dockerfile <path>',
      'the Dockerfile, in the context or anywhere; - for standard input',
    ).default('Dockerfile'),
  ];
}

/** The flags that say what is built. */
export function sourceFlags(): Option[] {
  return [
    ...contextFlags(),
    buildContextFlag(),
    valueFlag('--target <stage>', 'build this stage and what it needs'),
    listFlag('--build-arg <name=value>', 'value of an ARG'),
    ...platformFlags(),
    listFlag('--ignore-path <path>', 'leave this path of steps, and what is below it, out of all layers'),
    booleanFlag(
      '--reproducible',
      'give the image, and files later than that, the date SOURCE_DATE_EPOCH, or 1970 when it is not set',
    ),
  ];
}

/** What images are for. */
export function platformFlags(): Option[] {
  return [
    listFlag(
      '--platform <os/arch,…>',
      "platforms of the image, of several an index of images (default: this machine's)",
    ),
    listFlag('--custom-platform <os/arch>', 'as --platform, which kaniko calls so'),
  ];
}

/** The platforms that the flags name, each once. @throws UsageError. */
export function platformsOf(flags: Pick<SourceFlags, 'platform' | 'customPlatform'>): Platform[] {
  const texts = [...flags.platform, ...flags.customPlatform].flatMap((text) => text.split(','));
  const platforms = new Map(
    texts.map((text) => {
      const platform = parseBuildPlatform(text.trim());
      return [formatPlatform(platform), platform] as const;
    }),
  );
  return [...platforms.values()];
}

/** What stands in the place of stages and images. */
export function buildContextFlag(): Option {
  return listFlag(
    '--build-context <name=source>',
    'a context, docker-image:// or oci-layout:// in the place of a stage or image of this name',
  );
}

/** BuildKit's build argument that asks for the `.git` of a context. */
export const keepGitDirName = 'BUILDKIT_CONTEXT_KEEP_GIT_DIR';

/** @throws UsageError. */
export function sourceOptions(flags: SourceFlags, destinations: readonly Reference[]): SourceOptions {
  const buildArguments = parsePairs(flags.buildArg, 'build-arg');
  const { reproducible } = flags;
  const date = sourceDate({ reproducible, buildArguments, environment: process.env });
  const options = contextOptions(flags, buildArguments);
  return {
    ...options,
    contexts: parseBuildContexts(flags.buildContext),
    subject: subjectOf(destinations, options),
    target: flags.target,
    buildArguments: withSourceDate(buildArguments, date),
    sourceDate: date,
    ignoredPaths: ignoredPaths(flags.ignorePath),
    platforms: platformsOf(flags),
  };
}

/** @throws UsageError. */
export function contextOptions(
  flags: ContextFlags,
  buildArguments: ReadonlyMap<string, string>,
): ContextOptions {
  const git = parseGitFlags(flags.git);
  const address = addressOf(flags);
  const context = parseBuildContext(address, git, process.env);
  const keeps = /^(?:1|true)$/i.test(buildArguments.get(keepGitDirName) ?? '');
  return {
    context:
      context.kind === 'git' && keeps && git.keepGitDir === undefined
        ? { kind: 'git', source: { ...context.source, keepGitDir: true } }
        : context,
    contextSubPath: flags.contextSubPath,
    contextAccess: accessOf(git),
    dockerfile: flags.dockerfile,
  };
}

/** kaniko's `--bucket` is the name of a bucket of Google's, with or without an object, or any address. */
function addressOf({ context, bucket }: ContextFlags): string {
  if (bucket === undefined) return context;
  if (context !== defaultContext)
    throw new UsageError('--bucket and --context both name a context', {
      remedy: 'Leave --bucket out; it is deprecated.',
    });
  return bucket.includes('://') ? bucket : `gs://${bucket}`;
}

/** No tag: versions of an image are one thing. A path of the machine is nobody's business, so of that only the last part. */
function subjectOf(destinations: readonly Reference[], { context, dockerfile }: ContextOptions): string {
  const [image] = destinations;
  const name = image === undefined ? baseNameOf(context) : `${image.registry}/${image.repository}`;
  return `${name} ${dockerfileName(dockerfile)}`;
}

/** @throws UsageError. */
function ignoredPaths(paths: readonly string[]): string[] {
  for (const path of paths)
    if (!path.startsWith('/') || normalize(path) === '/')
      throw new UsageError(`--ignore-path ${path} is no path below the root of the image`, {
        remedy: 'Write it as /var/cache/name.',
      });
  return [...new Set(paths.map((path) => normalize(path).replace(/\/$/, '')))].sort();
}

/** What a context is called when nothing else has a name. */
export function baseNameOf(context: ContextAddress): string {
  if (context.kind === 'directory') return basename(resolve(context.path));
  if (context.kind === 'standard-input') return 'context';
  const name = context.kind === 'git' ? context.source.remote : contextName(context);
  const last = name.split(/[/:]/).findLast((part) => part !== '') ?? '';
  return last.replace(/\.(?:git|tar|tgz|tar\.[a-z0-9]+)$/i, '').replace(/[^A-Za-z0-9._-]/g, '-') || 'context';
}
