import { basename, join, resolve } from 'node:path';
import type { Option } from 'commander';
import { booleanFlag, listFlag, parsePairs, valueFlag } from '../src/cli/index.ts';
import {
  formatPlatform,
  hostPlatform,
  parsePlatform,
  platformMatches,
  type Reference,
} from '../src/oci/index.ts';
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
  readonly platform?: string;
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
    valueFlag('--platform <os/arch>', "the image's platform; this machine's only"),
    booleanFlag(
      '--reproducible',
      'give the image, and files later than that, the date SOURCE_DATE_EPOCH, or 1970 when it is not set',
    ),
  ];
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
  const platform = flags.platform === undefined ? hostPlatform() : parsePlatform(flags.platform);
  if (!platformMatches(platform, hostPlatform()))
    throw new UsageError(
      `--platform ${formatPlatform(platform)} is not the platform of this machine (${formatPlatform(hostPlatform())})`,
      { code: 'E_PLATFORM_UNSUPPORTED', remedy: 'Build on a machine of that platform.' },
    );
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
    platform,
  };
}

/** No tag: versions of an image are one thing. A path of the machine is nobody's business, so of that only the last part. */
function subjectOf(destinations: readonly Reference[], context: string, dockerfile: string): string {
  const [image] = destinations;
  const name = image === undefined ? basename(resolve(context)) : `${image.registry}/${image.repository}`;
  return `${name} ${dockerfileName(dockerfile)}`;
}
