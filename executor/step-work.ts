import { type KeyDefinition } from '../src/layercache/index.ts';
import { BuildError } from '../src/support/index.ts';
import type { CopyRequest, FetchedSource, SourceQuery } from './context/index.ts';
import { copyContentDefinition, runDefinition } from './definitions.ts';
import type { CopySource, LayerStack, Rootfs, RunOptions, RunStep } from './isolation/index.ts';
import type { MountStage, OpenedMounts } from './mounts/index.ts';
import type { MountContent } from './mount-keys.ts';
import { mountPattern } from './plan-files.ts';
import type { PlannedBase, PlannedStep } from './planned.ts';
import type { BuildSession } from './session.ts';
import type { Operation } from './steps.ts';

/** What a step asks of the stage that it is in. */
export interface StepStage extends MountStage {
  readonly openRootfs: (step: PlannedStep) => Promise<Rootfs>;
}

type CopyOperation = Extract<Operation, { kind: 'copy' }>;
type RunOperation = Extract<Operation, { kind: 'run' }>;

/** Carries out a step on the root file system of its stage. */
export async function executeStep(session: BuildSession, step: PlannedStep, stage: StepStage): Promise<void> {
  const { operation, where } = step;
  if (operation.kind === 'copy') return copy(session, step, operation, stage);
  if (operation.kind === 'run') return run(session, step, operation, stage);
  const rootfs = await stage.openRootfs(step);
  return rootfs.makeDirectory(operation.path, operation.user, where, session.signal);
}

async function run(
  session: BuildSession,
  step: PlannedStep,
  operation: RunOperation,
  stage: StepStage,
): Promise<void> {
  const { progress, signal } = session;
  // Before the root file system is opened: stages that are mounted may have to be built first.
  await using opened = await openStepMounts(session, step, operation, stage);
  const rootfs = await stage.openRootfs(step);
  const { argv, user, workingDirectory, network } = operation;
  const env = { ...operation.env, ...opened.env };
  const request: RunStep = { argv, env, user, workingDirectory, network, where: step.where };
  const options: RunOptions = {
    onOutput: (stream, data) => progress.emit({ type: 'output', step: step.id, stream, data }),
    onStarted: () => session.runStarted(),
    signal,
  };
  const result = await rootfs.run(request, opened.mounts, options);
  for (const [index, stamp] of result.stamps.entries()) {
    const counted = opened.planned[index]?.reading?.stamp;
    if (counted !== undefined && stamp !== undefined && counted !== stamp) session.doNotStore(step);
  }
  if (result.exitCode === 0 && result.signal === null) return;
  const how =
    result.signal === null ? `ended with exit code ${result.exitCode}` : `was ended by ${result.signal}`;
  throw new BuildError(`the command ${how}: ${step.text}`, {
    code: 'E_RUN_FAILED',
    where: step.where,
    remedy:
      result.signal === 'SIGKILL'
        ? 'It may have run out of memory.'
        : (result.hint ?? 'Its output above says why.'),
  });
}

const noMounts: OpenedMounts = {
  mounts: [],
  planned: [],
  env: {},
  [Symbol.asyncDispose]: () => Promise.resolve(),
};

async function openStepMounts(
  session: BuildSession,
  step: PlannedStep,
  { mounts, script }: RunOperation,
  stage: StepStage,
): Promise<OpenedMounts> {
  if (mounts.length === 0 && script === undefined) return noMounts;
  const { openMounts } = await import('./mounts/index.ts');
  return openMounts(step, stage, session.mountResources());
}

async function copy(
  session: BuildSession,
  step: PlannedStep,
  operation: CopyOperation,
  stage: StepStage,
): Promise<void> {
  let source: CopySource = { kind: 'directory' };
  if (step.source !== undefined) source = { kind: 'layers', layers: await stage.layersOf(step.source) };
  const request: CopyRequest = {
    query: operation.patterns.length === 0 ? undefined : copyQuery(step, operation, step.tree.tree.directory),
    fetched: await fetchRemotes(step, operation),
    excludes: operation.excludes,
    files: operation.files,
    destination: operation.destination,
    chown: operation.chown,
    chmod: operation.chmod,
    keepOwners: step.source !== undefined,
    unpackArchives: operation.unpackArchives,
    where: step.where,
  };
  const rootfs = await stage.openRootfs(step);
  const stamp = await rootfs.copy(source, request, session.signal);
  if (step.stamp !== undefined && step.stamp !== stamp) session.doNotStore(step);
}

/** Brings here what ADD takes from elsewhere. */
function fetchRemotes(step: PlannedStep, { remotes }: CopyOperation): Promise<FetchedSource[]> {
  return Promise.all(
    step.remotes.map(async (remote, at): Promise<FetchedSource> => {
      const { source, after = 0, unpack = false } = remotes[at] ?? {};
      const path = await remote.fetch();
      return { path, name: source?.kind === 'http' ? source.name : undefined, after, unpack };
    }),
  );
}

function copyQuery(step: PlannedStep, operation: CopyOperation, root: string): SourceQuery {
  const { source } = step;
  return {
    root,
    patterns: operation.patterns,
    excludes: operation.excludes,
    parents: operation.parents,
    ignore: source === undefined ? step.tree.tree.ignore : [],
    where: step.where,
    treeName: source === undefined ? step.tree.name : sourceName(source),
  };
}

function sourceName(source: PlannedBase): string {
  return source.kind === 'stage' ? `stage ${source.stage.label}` : 'the image';
}

/**
 * The definition of a step that takes files from stages or images, by the content of these: another build of a stage may have
 * given the same files. Has those stages built. Undefined for steps that take nothing from there.
 */
export async function contentDefinition(
  session: BuildSession,
  step: PlannedStep,
  stage: Pick<StepStage, 'layersOf'>,
): Promise<KeyDefinition | undefined> {
  const { operation, parentKey, source } = step;
  if (parentKey === undefined) return undefined;
  const digest = async (layers: LayerStack, query: SourceQuery, modes: boolean) =>
    session.isolation.digestSources(layers, query, { modes }, session.scratch, session.signal);
  if (operation.kind === 'copy' && source !== undefined) {
    const layers = await stage.layersOf(source);
    const modes = typeof operation.chmod !== 'number';
    const content = await digest(layers, copyQuery(step, operation, '/'), modes);
    return copyContentDefinition(operation, parentKey, content, session.limits);
  }
  if (operation.kind !== 'run' || parentKey === null) return undefined;
  if (step.mounts.every((mount) => mount.source === undefined)) return undefined;
  const contents: MountContent[] = [];
  for (const { mount, source: from, reading } of step.mounts) {
    if (from === undefined) {
      contents.push(reading === undefined ? undefined : { content: reading.digest });
      continue;
    }
    const { where } = step;
    const query = {
      root: '/',
      patterns: [mountPattern(mount)],
      ignore: [],
      where,
      treeName: sourceName(from),
    };
    contents.push({ content: await digest(await stage.layersOf(from), query, true) });
  }
  return runDefinition(operation, parentKey, contents);
}
