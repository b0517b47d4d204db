import { existsSync } from 'node:fs';
import { basename, isAbsolute, join, resolve } from 'node:path';
import type { Option } from 'commander';
import { listFlag, parsePairs, valueFlag } from '../src/cli/index.ts';
import {
  formatPlatform,
  hostPlatform,
  parsePlatform,
  platformMatches,
  type Reference,
} from '../src/oci/index.ts';
import { UsageError } from '../src/support/index.ts';
import type { SourceOptions } from './options.ts';

/** What the flags of {@link sourceFlags} give. */
export interface SourceFlags {
  readonly context: string;
  readonly contextSubPath?: string;
  readonly dockerfile: string;
  readonly target?: string;
  readonly buildArg: readonly string[];
  readonly platform?: string;
}

/** The flags that say what is built. */
export function sourceFlags(): Option[] {
  return [
    valueFlag('-c, --context <directory>', 'the build context').default('.'),
    valueFlag('--context-sub-path <path>', 'build from this directory of the context'),
    valueFlag('-f, --dockerfile <path>', 'the Dockerfile, in the context or anywhere').default('Dockerfile'),
    valueFlag('--target <stage>', 'build this stage and what it needs'),
    listFlag('--build-arg <name=value>', 'value of an ARG'),
    valueFlag('--platform <os/arch>', "the image's platform; this machine's only"),
  ];
}

/** @throws UsageError. */
export function sourceOptions(flags: SourceFlags, destinations: readonly Reference[]): SourceOptions {
  const platform = flags.platform === undefined ? hostPlatform() : parsePlatform(flags.platform);
  if (!platformMatches(platform, hostPlatform()))
    throw new UsageError(
      `--platform ${formatPlatform(platform)} is not the platform of this machine (${formatPlatform(hostPlatform())})`,
      { code: 'E_PLATFORM_UNSUPPORTED', remedy: 'Build on a machine of that platform.' },
    );
  const directory = flags.context.replace(/^dir:\/\//, '');
  const context = flags.contextSubPath === undefined ? flags.context : join(directory, flags.contextSubPath);
  const dockerfile = dockerfilePath(flags.dockerfile, context);
  return {
    context,
    dockerfile,
    subject: subjectOf(destinations, directory, dockerfile),
    target: flags.target,
    buildArguments: parsePairs(flags.buildArg, 'build-arg'),
    platform,
  };
}

/** No tag: versions of an image are one thing. A path of the machine is nobody's business, so of that only the last part. */
function subjectOf(destinations: readonly Reference[], context: string, dockerfile: string): string {
  const [image] = destinations;
  const name = image === undefined ? basename(resolve(context)) : `${image.registry}/${image.repository}`;
  return `${name} ${basename(dockerfile)}`;
}

/** As kaniko looks for it: as given, or else inside the context. */
function dockerfilePath(path: string, context: string): string {
  const inside = join(context, path);
  if (isAbsolute(path) || existsSync(inside) || !existsSync(path)) return isAbsolute(path) ? path : inside;
  return resolve(path);
}
