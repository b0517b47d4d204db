import { basename, join, normalize, resolve } from 'node:path';
import type { Option } from 'commander';
import { booleanFlag, listFlag, parsePairs, valueFlag } from '../src/cli/index.ts';
import { formatPlatform, parseBuildPlatform, type Platform, type Reference } from '../src/oci/index.ts';
import { UsageError } from '../src/support/index.ts';
import { dockerfileName } from './context/index.ts';
import { dockerfilePath } from './dockerfile-path.ts';
import { parseBuildContexts } from './named-contexts.ts';
import type { SourceOptions } from './options.ts';
import { sourceDate, withSourceDate } from './source-date.ts';

/** What the flags of {@link sourceFlags} give. */
export interface SourceFlags {
  readonly context: string;
  readonly contextSubPath?: string;
  readonly buildContext: readonly string[];
  readonly dockerfile: string;
  readonly target?: string;
  readonly buildArg: readonly string[];
  readonly platform: readonly string[];
  readonly customPlatform: readonly string[];
  readonly ignorePath: readonly string[];
  readonly reproducible?: boolean;
}

/** The flags that say what is built. */
export function sourceFlags(): Option[] {
  return [
    valueFlag('-c, --context <directory>', 'the build context').default('.'),
    valueFlag('--context-sub-path <path>', 'build from this directory of the context'),
    buildContextFlag(),
    valueFlag(
      '-f, --dockerfile <path>',
      'the Dockerfile, in the context or anywhere; - for standard input',
    ).default('Dockerfile'),
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
    'a directory, docker-image://, oci-layout:// or a git repository in the place of a stage or image of this name',
  );
}

/** @throws UsageError. */
export function sourceOptions(flags: SourceFlags, destinations: readonly Reference[]): SourceOptions {
  const buildArguments = parsePairs(flags.buildArg, 'build-arg');
  const { reproducible } = flags;
  const date = sourceDate({ reproducible, buildArguments, environment: process.env });
  const directory = flags.context.replace(/^dir:\/\//, '');
  const context = flags.contextSubPath === undefined ? flags.context : join(directory, flags.contextSubPath);
  const dockerfile = dockerfilePath(flags.dockerfile, context);
  return {
    context,
    contexts: parseBuildContexts(flags.buildContext),
    dockerfile,
    subject: subjectOf(destinations, directory, dockerfile),
    target: flags.target,
    buildArguments: withSourceDate(buildArguments, date),
    sourceDate: date,
    ignoredPaths: ignoredPaths(flags.ignorePath),
    platforms: platformsOf(flags),
  };
}

/** No tag: versions of an image are one thing. A path of the machine is nobody's business, so of that only the last part. */
function subjectOf(destinations: readonly Reference[], context: string, dockerfile: string): string {
  const [image] = destinations;
  const name = image === undefined ? basename(resolve(context)) : `${image.registry}/${image.repository}`;
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
