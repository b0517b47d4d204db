import {
  formatPlatform,
  formatReference,
  hostPlatform,
  parseBuildPlatform,
  parseReference,
  type Platform,
} from '../oci/index.ts';
import { BuildError, UsageError } from '../support/index.ts';
import { expandWord, ExpansionError, type Lookup } from './expand.ts';
import { nearestWord } from './fields.ts';
import { parseTriggers } from './parse.ts';
import type { Dockerfile, Instruction, Stage } from './types.ts';

/** Where a stage, or a COPY --from, gets its files: an earlier stage, an image, a named context, or nothing. */
export type Origin =
  | { readonly kind: 'stage'; readonly index: number }
  | { readonly kind: 'image'; readonly name: string }
  | { readonly kind: 'context'; readonly name: string }
  | { readonly kind: 'scratch' };

/** A stage with the names of its FROM and of its COPY --from resolved. */
export interface ResolvedStage {
  readonly stage: Stage;
  /** As messages call it: its name, or `stage-2`. */
  readonly label: string;
  readonly base: Origin;
  /** What its files are for: that of its FROM, of the stage that it is made from, or what is built for. */
  readonly platform: Platform;
  /** By instruction, where each COPY --from copies from; an image named there is one for what is built for. */
  readonly sources: ReadonlyMap<unknown, Origin>;
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
  /** See {@link automaticArguments}. */
  readonly automatic: ReadonlyMap<string, string>;
}

/**
 * ARGs that are there without being given (Dockerfile reference, "Automatic platform ARGs"; BuildKit's TARGETSTAGE). A build
 * argument of their name counts before what they are.
 *
 * @param target the stage that is built, by its name.
 */
export function automaticArguments(
  platform: Platform,
  target = 'default',
  buildArguments: ReadonlyMap<string, string> = new Map(),
): Map<string, string> {
  const pairs = (prefix: string, { os, architecture, variant }: Platform): [string, string][] => [
    [
      `${prefix}PLATFORM`,
      formatPlatform({ os, architecture, ...(variant === undefined ? {} : { variant }) }),
    ],
    [`${prefix}OS`, os],
    [`${prefix}ARCH`, architecture],
    [`${prefix}VARIANT`, variant ?? ''],
    [`${prefix}OSVERSION`, ''],
  ];
  const all = [...pairs('TARGET', platform), ...pairs('BUILD', hostPlatform())];
  const named: [string, string][] = [...all, ['TARGETSTAGE', target]];
  return new Map(named.map(([name, value]) => [name, buildArguments.get(name) ?? value]));
}

/**
 * Resolves every name that stages refer to each other by, and picks the stages that the target needs.
 *
 * @throws BuildError `E_DOCKERFILE_STAGE` for names that are not there; UsageError for an unknown target.
 */
export function resolveStages(dockerfile: Dockerfile, options: StageOptions): StageGraph {
  const { resolved, globals, automatic } = resolveAll(dockerfile, options);
  const target = findTarget(dockerfile, options.target);
  return { stages: neededStages(dockerfile, resolved, target), all: resolved, globals, automatic };
}

/**
 * The stages that a stage needs, and itself as the last, each after what it needs, and otherwise in the order of the file.
 *
 * @throws BuildError `E_DOCKERFILE_STAGE` when a stage needs itself.
 */
export function neededStages(
  dockerfile: Dockerfile,
  all: readonly ResolvedStage[],
  target: number,
): ResolvedStage[] {
  const needed = new Set([target]);
  // A set gives what is added meanwhile, too.
  for (const index of needed) for (const below of stagesBelow(all[index])) needed.add(below);
  const ordered = new Set<ResolvedStage>();
  const begun = new Set<number>();
  const place = (index: number): void => {
    const stage = all[index];
    if (stage === undefined || ordered.has(stage)) return;
    if (begun.has(index))
      throw new BuildError(`stage ${stage.label} needs itself`, {
        code: 'E_DOCKERFILE_STAGE',
        where: `${dockerfile.file}:${stage.stage.from.line}`,
        remedy: 'It copies from a stage that is made from it, or copies from it: name another one.',
      });
    begun.add(index);
    for (const below of stagesBelow(stage)) place(below);
    ordered.add(stage);
  };
  for (const index of [...needed].sort((one, other) => one - other)) place(index);
  return [...ordered];
}

function stagesBelow(stage: ResolvedStage | undefined): number[] {
  const origins = stage === undefined ? [] : [stage.base, ...stage.sources.values()];
  return origins.flatMap((origin) => (origin.kind === 'stage' ? [origin.index] : []));
}

/** An image that a Dockerfile names, in FROM or COPY --from. */
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
    const named = (origin: Origin, wanted: Platform): NamedImage[] =>
      origin.kind === 'image' ? [{ name: origin.name, platform: wanted, where }] : [];
    return [
      ...named(base, platform),
      ...[...sources.values()].flatMap((origin) => named(origin, options.platform)),
    ];
  });
}

function resolveAll(
  dockerfile: Dockerfile,
  options: Omit<StageOptions, 'target'> & Partial<Pick<StageOptions, 'target'>>,
): { resolved: ResolvedStage[] } & Pick<StageGraph, 'globals' | 'automatic'> {
  const { platform, buildArguments } = options;
  const target = options.target ?? dockerfile.stages.at(-1)?.name;
  const automatic = automaticArguments(platform, target, buildArguments);
  const globals = globalArguments(dockerfile, buildArguments, automatic);
  const lookup: Lookup = (name) => globals.get(name) ?? automatic.get(name);
  const resolved: ResolvedStage[] = [];
  for (const stage of dockerfile.stages)
    resolved.push(resolveStage(dockerfile, stage, lookup, options, resolved));
  return { resolved, globals, automatic };
}

function globalArguments(
  dockerfile: Dockerfile,
  buildArguments: ReadonlyMap<string, string>,
  automatic: ReadonlyMap<string, string>,
): Map<string, string> {
  const globals = new Map<string, string>();
  const lookup: Lookup = (name) => globals.get(name) ?? automatic.get(name);
  for (const instruction of dockerfile.metaArgs)
    for (const { name, value } of instruction.arguments) {
      const given = buildArguments.get(name);
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
  earlier: readonly ResolvedStage[],
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
  const own = given === undefined ? wanted : atLine(where, () => parseBuildPlatform(given));
  const sources = sourcesOf(dockerfile, stage, stage.instructions, lookup, contexts);
  const base = originOf(dockerfile, stage, name, contexts);
  if (base.kind === 'image') requireReference(name, where);
  return { stage, label, base, platform: platformOn(base, own, wanted, earlier), sources };
}

/** Where the instructions of a stage copy from. */
function sourcesOf(
  dockerfile: Dockerfile,
  stage: Stage,
  instructions: readonly Instruction[],
  lookup: Lookup,
  contexts: ReadonlyMap<string, Origin>,
): Map<unknown, Origin> {
  const sources = new Map<unknown, Origin>();
  for (const instruction of instructions) {
    if (instruction.kind !== 'copy' || instruction.from === undefined) continue;
    const from = expandAt(dockerfile, instruction.line, instruction.from, lookup);
    const where = `${dockerfile.file}:${instruction.line}`;
    sources.set(instruction, copyOrigin(dockerfile, stage, from, contexts, where));
  }
  return sources;
}

/**
 * A stage with the triggers that ONBUILD left in what it is made from before its own instructions.
 *
 * @throws BuildError naming the trigger, at the line of the FROM.
 */
export function withTriggers(
  dockerfile: Dockerfile,
  resolved: ResolvedStage,
  triggers: readonly string[],
  { globals, automatic }: Pick<StageGraph, 'globals' | 'automatic'>,
  contexts: ReadonlyMap<string, Origin> = new Map(),
): ResolvedStage {
  const { stage } = resolved;
  const parsed = parseTriggers(triggers, stage.from, dockerfile.file, dockerfile.escape);
  const lookup: Lookup = (name) => globals.get(name) ?? automatic.get(name);
  const sources = new Map(resolved.sources);
  for (const [index, instruction] of parsed.entries())
    try {
      for (const [key, origin] of sourcesOf(dockerfile, stage, [instruction], lookup, contexts))
        sources.set(key, origin);
    } catch (error) {
      if (!(error instanceof BuildError)) throw error;
      const { code, where, remedy } = error;
      throw new BuildError(`${error.message} (ONBUILD ${triggers[index] ?? ''})`, { code, where, remedy });
    }
  return { ...resolved, sources, stage: { ...stage, instructions: [...parsed, ...stage.instructions] } };
}

/** What is made from a stage is for the same as that; nothing at all, FROM scratch, is for what is built for. */
function platformOn(
  base: Origin,
  own: Platform,
  wanted: Platform,
  earlier: readonly ResolvedStage[],
): Platform {
  if (base.kind === 'stage') return earlier[base.index]?.platform ?? wanted;
  return base.kind === 'scratch' ? wanted : own;
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

function copyOrigin(
  dockerfile: Dockerfile,
  stage: Stage,
  from: string,
  contexts: ReadonlyMap<string, Origin>,
  where: string,
): Origin {
  const wrong = (message: string, remedy?: string): BuildError =>
    new BuildError(message, { code: 'E_DOCKERFILE_STAGE', where, remedy });
  if (from === '') throw wrong('COPY --from names nothing');
  if (/^[0-9]+$/.test(from)) {
    const index = Number(from);
    if (index === stage.index) throw wrong(`COPY --from=${from} copies the stage into itself`);
    if (index >= dockerfile.stages.length)
      throw wrong(
        `there is no stage ${from}`,
        `Stages are counted from 0; this one is ${stage.index}, and the last is ${dockerfile.stages.length - 1}.`,
      );
    return { kind: 'stage', index };
  }
  const named = originOf(dockerfile, stage, from, contexts);
  if (named.kind !== 'image' || contexts.has(contextKey(from))) return named;
  const names = dockerfile.stages.flatMap(({ name }) => (name === undefined ? [] : [name]));
  if (stage.name === from.toLowerCase()) throw wrong(`COPY --from=${from} copies the stage into itself`);
  // As in BuildKit, what is copied from may come later.
  const later = dockerfile.stages.find(({ name }) => name === from.toLowerCase());
  if (later !== undefined) return { kind: 'stage', index: later.index };
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
