import {
  formatPlatform,
  formatReference,
  hostPlatform,
  parsePlatform,
  parseReference,
  type Platform,
  platformMatches,
} from '../oci/index.ts';
import { BuildError, UsageError } from '../support/index.ts';
import { expandWord, ExpansionError, type Lookup } from './expand.ts';
import { nearestWord } from './fields.ts';
import type { MountFields } from './mounts.ts';
import type { CopyInstruction, Dockerfile, Instruction, Stage } from './types.ts';

/** Where a stage, a COPY --from or a RUN --mount gets its files: an earlier stage, an image, a named context, or nothing. */
export type Origin =
  | { readonly kind: 'stage'; readonly index: number }
  | { readonly kind: 'image'; readonly name: string }
  | { readonly kind: 'context'; readonly name: string }
  | { readonly kind: 'scratch' };

/** What names a place that files are from: a COPY with `--from`, or a `--mount` of RUN with `from=`. */
export type SourceUser = CopyInstruction | MountFields;

/** A stage with the names of its FROM, of its COPY --from and its RUN --mount=from= resolved. */
export interface ResolvedStage {
  readonly stage: Stage;
  /** As messages call it: its name, or `stage-2`. */
  readonly label: string;
  readonly base: Origin;
  readonly platform: Platform;
  /** Where those that have a `from` get their files. */
  readonly sources: ReadonlyMap<SourceUser, Origin>;
}

export interface StageOptions {
  readonly target: string | undefined;
  readonly buildArguments: ReadonlyMap<string, string>;
  readonly platform: Platform;
  /** What names of stages and images mean instead, by their {@link contextKey}. */
  readonly contexts?: ReadonlyMap<string, Origin>;
}

/** One spelling of each name that a named context may have: `alpine` and `docker.io/library/alpine:latest` are the same. */
export function contextKey(name: string): string {
  try {
    return formatReference(parseReference(name.toLowerCase()));
  } catch (error) {
    if (error instanceof UsageError) return name.toLowerCase();
    throw error;
  }
}

/** The stages that the target needs, in an order in which each comes after what it needs; the target is the last. */
export interface StageGraph {
  readonly stages: readonly ResolvedStage[];
  /** Every stage of the file, in its order. */
  readonly all: readonly ResolvedStage[];
  readonly globals: ReadonlyMap<string, string>;
}

/** ARGs about platforms that are there without being given (Dockerfile reference, "Automatic platform ARGs"). */
export function platformArguments(platform: Platform): Map<string, string> {
  const pairs = (prefix: string, { os, architecture, variant }: Platform): [string, string][] => [
    [
      `${prefix}PLATFORM`,
      formatPlatform({ os, architecture, ...(variant === undefined ? {} : { variant }) }),
    ],
    [`${prefix}OS`, os],
    [`${prefix}ARCH`, architecture],
    [`${prefix}VARIANT`, variant ?? ''],
  ];
  return new Map([...pairs('TARGET', platform), ...pairs('BUILD', hostPlatform())]);
}

/**
 * Resolves every name that stages refer to each other by, and picks the stages that the target needs.
 *
 * @throws BuildError `E_DOCKERFILE_STAGE` for names that are not there, `E_PLATFORM_UNSUPPORTED`; UsageError for an unknown target.
 */
export function resolveStages(dockerfile: Dockerfile, options: StageOptions): StageGraph {
  const graph = selectStages(dockerfile, options);
  for (const stage of graph.stages) requireOwnPlatform(dockerfile, stage);
  return graph;
}

/** As {@link resolveStages}, also of platforms that cannot be built on this machine. */
export function selectStages(dockerfile: Dockerfile, options: StageOptions): StageGraph {
  const { resolved, globals } = resolveAll(dockerfile, options);
  const target = findTarget(dockerfile, options.target);
  const needed = new Set<number>();
  const need = (index: number): void => {
    if (needed.has(index)) return;
    needed.add(index);
    const stage = resolved[index];
    for (const origin of stage === undefined ? [] : [stage.base, ...stage.sources.values()])
      if (origin.kind === 'stage') need(origin.index);
  };
  need(target);
  const stages = resolved.filter(({ stage }) => needed.has(stage.index));
  return { stages, all: resolved, globals };
}

/** An image that a Dockerfile names, in FROM, COPY --from or RUN --mount. */
export interface NamedImage {
  readonly name: string;
  readonly platform: Platform;
  /** File and line. */
  readonly where: string;
}

/** Every image that any stage names; names of stages and `scratch` are none. @throws as {@link resolveStages}. */
export function namedImages(dockerfile: Dockerfile, options: Omit<StageOptions, 'target'>): NamedImage[] {
  return resolveAll(dockerfile, options).resolved.flatMap(({ stage, base, platform, sources }) => {
    const where = `${dockerfile.file}:${stage.from.line}`;
    return [base, ...sources.values()].flatMap((origin) =>
      origin.kind === 'image' ? [{ name: origin.name, platform, where }] : [],
    );
  });
}

function resolveAll(
  dockerfile: Dockerfile,
  options: Omit<StageOptions, 'target'>,
): { resolved: ResolvedStage[]; globals: Map<string, string> } {
  const globals = globalArguments(dockerfile, options);
  const platformNames = platformArguments(options.platform);
  const lookup: Lookup = (name) => globals.get(name) ?? platformNames.get(name);
  const resolved = dockerfile.stages.map((stage) => resolveStage(dockerfile, stage, lookup, options));
  return { resolved, globals };
}

function globalArguments(dockerfile: Dockerfile, options: Omit<StageOptions, 'target'>): Map<string, string> {
  const globals = new Map<string, string>();
  const platformNames = platformArguments(options.platform);
  const lookup: Lookup = (name) => globals.get(name) ?? platformNames.get(name);
  for (const instruction of dockerfile.metaArgs)
    for (const { name, value } of instruction.arguments) {
      const given = options.buildArguments.get(name);
      if (given !== undefined) globals.set(name, given);
      else if (value !== undefined) globals.set(name, expandAt(dockerfile, instruction.line, value, lookup));
    }
  return globals;
}

/** Expands a word; what is wrong with it is an error at its line. */
export function expandAt(dockerfile: Dockerfile, line: number, word: string, lookup: Lookup): string {
  try {
    return expandWord(word, lookup, dockerfile.escape);
  } catch (error) {
    if (!(error instanceof ExpansionError)) throw error;
    throw new BuildError(error.message, {
      code: 'E_DOCKERFILE_EXPANSION',
      where: `${dockerfile.file}:${line}`,
    });
  }
}

function resolveStage(
  dockerfile: Dockerfile,
  stage: Stage,
  lookup: Lookup,
  { platform: wanted, contexts = new Map() }: Omit<StageOptions, 'target'>,
): ResolvedStage {
  const where = `${dockerfile.file}:${stage.from.line}`;
  const label = stage.name ?? `stage-${stage.index}`;
  const replacement = stage.name === undefined ? undefined : contexts.get(contextKey(stage.name));
  // A context with the name of a stage stands in its place; nothing of the stage is looked at.
  if (replacement !== undefined)
    return {
      stage: { ...stage, instructions: [] },
      label,
      base: replacement,
      platform: wanted,
      sources: new Map(),
    };
  const name = expandAt(dockerfile, stage.from.line, stage.from.image, lookup);
  if (name === '')
    throw new BuildError(`FROM ${stage.from.image} names nothing`, {
      code: 'E_DOCKERFILE_STAGE',
      where,
      remedy: 'Give the ARG a default, or set it with --build-arg.',
    });
  const given =
    stage.from.platform === undefined
      ? undefined
      : expandAt(dockerfile, stage.from.line, stage.from.platform, lookup);
  const platform = given === undefined ? wanted : atLine(where, () => parsePlatform(given));
  const sources = new Map<SourceUser, Origin>();
  for (const instruction of stage.instructions)
    for (const { user, from, flag } of sourceUsers(instruction)) {
      const name = flag === mountFlag ? from : expandAt(dockerfile, instruction.line, from, lookup);
      const place = { flag, where: `${dockerfile.file}:${instruction.line}` };
      sources.set(user, sourceOrigin(dockerfile, stage, name, contexts, place));
    }
  const base = originOf(dockerfile, stage, name, contexts);
  if (base.kind === 'image') requireReference(name, where);
  return {
    stage,
    label,
    base,
    platform,
    sources,
  };
}

const mountFlag = 'RUN --mount=from';

/** What of an instruction names a stage, an image or a context. */
export function sourceUsers(
  instruction: Instruction,
): { readonly user: SourceUser; readonly from: string; readonly flag: string }[] {
  if (instruction.kind === 'copy')
    return instruction.from === undefined
      ? []
      : [{ user: instruction, from: instruction.from, flag: 'COPY --from' }];
  if (instruction.kind !== 'run') return [];
  return instruction.mounts.flatMap((user) => {
    const from = user.get('from') ?? '';
    return from === '' ? [] : [{ user, from, flag: mountFlag }];
  });
}

function requireOwnPlatform(dockerfile: Dockerfile, { stage, platform }: ResolvedStage): void {
  if (platformMatches(platform, hostPlatform())) return;
  throw new BuildError(
    `platform ${formatPlatform(platform)} is not the platform of this machine (${formatPlatform(hostPlatform())})`,
    {
      code: 'E_PLATFORM_UNSUPPORTED',
      where: `${dockerfile.file}:${stage.from.line}`,
      remedy: 'Build on a machine of that platform.',
    },
  );
}

function originOf(
  dockerfile: Dockerfile,
  stage: Stage,
  name: string,
  contexts: ReadonlyMap<string, Origin>,
): Origin {
  const earlier = dockerfile.stages
    .filter((other) => other.index < stage.index && other.name === name.toLowerCase())
    .at(-1);
  if (earlier !== undefined) return { kind: 'stage', index: earlier.index };
  const named = contexts.get(contextKey(name));
  if (named !== undefined) return named;
  return name === 'scratch' ? { kind: 'scratch' } : { kind: 'image', name };
}

/** A name that no registry could have is a mistake of the Dockerfile, told before anything is asked. */
function requireReference(name: string, where: string): void {
  atLine(where, () => parseReference(name));
}

/** Gives what the command line's own parsers refuse the place in the Dockerfile. */
function atLine<Value>(where: string, parse: () => Value): Value {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    throw new BuildError(error.message, { code: error.code, where, remedy: error.remedy });
  }
}

function sourceOrigin(
  dockerfile: Dockerfile,
  stage: Stage,
  from: string,
  contexts: ReadonlyMap<string, Origin>,
  { flag, where }: { readonly flag: string; readonly where: string },
): Origin {
  const wrong = (message: string, remedy?: string): BuildError =>
    new BuildError(message, { code: 'E_DOCKERFILE_STAGE', where, remedy });
  if (from === '') throw wrong(`${flag} names nothing`);
  if (/^[0-9]+$/.test(from)) {
    const index = Number(from);
    if (index === stage.index) throw wrong(`${flag}=${from} is the stage that it is in`);
    if (index > stage.index)
      throw wrong(
        `there is no stage ${from} before this one`,
        `Stages are counted from 0; this one is ${stage.index}.`,
      );
    return { kind: 'stage', index };
  }
  const named = originOf(dockerfile, stage, from, contexts);
  if (named.kind !== 'image' || contexts.has(contextKey(from))) return named;
  const names = dockerfile.stages.flatMap(({ name }) => (name === undefined ? [] : [name]));
  if (stage.name === from.toLowerCase()) throw wrong(`${flag}=${from} is the stage that it is in`);
  if (names.includes(from.toLowerCase()))
    throw wrong(
      `stage ${from} comes after the instruction that needs it`,
      'Move it up; a stage can only use earlier ones.',
    );
  const near = nearestWord(from, names);
  if (near !== undefined && !/[./:@]/.test(from))
    throw wrong(
      `there is no stage named ${from}`,
      `Did you mean ${near}? For an image, write its registry: docker.io/library/${from}.`,
    );
  requireReference(from, where);
  return named;
}

function findTarget(dockerfile: Dockerfile, target: string | undefined): number {
  if (target === undefined) return dockerfile.stages.length - 1;
  const byName = dockerfile.stages.findLastIndex(({ name }) => name === target.toLowerCase());
  if (byName >= 0) return byName;
  if (/^[0-9]+$/.test(target) && Number(target) < dockerfile.stages.length) return Number(target);
  const names = dockerfile.stages.flatMap(({ name }) => (name === undefined ? [] : [name]));
  const near = nearestWord(target, names);
  throw new UsageError(`there is no stage "${target}" in ${dockerfile.file}`, {
    code: 'E_TARGET_NOT_FOUND',
    remedy:
      near === undefined
        ? names.length === 0
          ? 'No stage has a name.'
          : `It has ${names.join(', ')}.`
        : `Did you mean ${near}?`,
  });
}
