import { acquireCacheMount } from '../../src/volume/index.ts';
import type { CanonicalValue, Progress } from '../../src/support/index.ts';
import { readTree } from '../context/index.ts';
import type { Isolation, LayerStack, StepMount } from '../isolation/index.ts';
import { scriptPath } from '../interpret-run.ts';
import { secretMode, socketMode } from '../mount-keys.ts';
import { mountPattern, mountQuery } from '../plan-files.ts';
import type { PlannedBase, PlannedMount, PlannedStep } from '../planned.ts';
import type { MountOperation, MountOwner } from '../steps.ts';
import { Agents } from './agents.ts';
import { Secrets } from './secrets.ts';
import type { MountSources } from './sources.ts';

/** What the mounts of all steps of a build are made from. */
export interface MountResources {
  readonly secrets: Secrets;
  readonly agents: Agents;
  /** A volume that can be written, where caches are kept. */
  readonly volume: string;
  readonly isolation: Isolation;
  readonly scratch: string;
  readonly progress: Progress;
  readonly signal: AbortSignal;
}

/** What a mount may ask of the stage that it is in. */
export interface MountStage {
  readonly layersOf: (source: PlannedBase) => Promise<LayerStack>;
  /** The ChainID of what {@link layersOf} gives. */
  readonly chainOf: (source: PlannedBase) => Promise<string | null>;
}

/** The mounts of one step, until it has ended. */
export interface OpenedMounts extends AsyncDisposable {
  readonly mounts: readonly StepMount[];
  /** For each of them, the one of the plan that it is of. */
  readonly planned: readonly (PlannedMount | undefined)[];
  /** Secrets that the command gets as variables. */
  readonly env: Readonly<Record<string, string>>;
}

/** Reads the secrets and opens the agents that these steps use. @throws UsageError `E_SECRET_…`, `E_SSH_…`. */
export async function openSources(
  sources: MountSources,
  steps: readonly PlannedStep[],
): Promise<Pick<MountResources, 'secrets' | 'agents'>> {
  const all = steps.flatMap(({ mounts }) => mounts.map(({ mount }) => mount));
  const ids = (type: 'secret' | 'ssh'): Set<string> =>
    new Set(all.flatMap((mount) => (mount.type === type ? [mount.id] : [])));
  const [secrets, agents] = await Promise.all([
    Secrets.read(sources.secrets, ids('secret')),
    Agents.open(sources.agents, ids('ssh')),
  ]);
  return { secrets, agents };
}

/**
 * Makes what a step has mounted ready. Waits for caches that others have.
 *
 * @throws BuildError `E_SECRET_MISSING`, `E_SSH_MISSING`, and for files that are not there.
 */
export async function openMounts(
  step: PlannedStep,
  stage: MountStage,
  resources: MountResources,
): Promise<OpenedMounts> {
  await using opener = new Opener(step, stage, resources);
  return await opener.open();
}

type Mount<Type extends MountOperation['type']> = Extract<MountOperation, { type: Type }>;

class Opener implements AsyncDisposable {
  readonly #step: PlannedStep;
  readonly #stage: MountStage;
  readonly #resources: MountResources;
  #leases = new AsyncDisposableStack();
  /** One directory for all mounts of a step that mean the same. */
  readonly #caches = new Map<string, Promise<string>>();
  readonly #env: Record<string, string> = {};

  constructor(step: PlannedStep, stage: MountStage, resources: MountResources) {
    this.#step = step;
    this.#stage = stage;
    this.#resources = resources;
  }

  async open(): Promise<OpenedMounts> {
    const opened = new Map<PlannedMount, StepMount | undefined>();
    // Steps that wait for each other's caches all take them in one order.
    const { mounts: all } = this.#step;
    const idOf = ({ mount }: PlannedMount): string => (mount.type === 'cache' ? mount.id : '');
    for (const planned of all.toSorted((a, b) => (idOf(a) < idOf(b) ? -1 : 1)))
      opened.set(planned, await this.#open(planned));
    const found = all.flatMap((planned) => {
      const mount = opened.get(planned);
      return mount === undefined ? [] : [{ planned, mount }];
    });
    const scripts = this.#script();
    const leases = this.#leases;
    this.#leases = new AsyncDisposableStack();
    return {
      mounts: [...found.map(({ mount }) => mount), ...scripts],
      planned: found.map(({ planned }) => planned),
      env: this.#env,
      [Symbol.asyncDispose]: () => leases.disposeAsync(),
    };
  }

  #script(): StepMount[] {
    const { operation } = this.#step;
    if (operation.kind !== 'run' || operation.script === undefined) return [];
    const { script } = operation;
    const content = Buffer.from(script.content);
    return [{ kind: 'file', target: scriptPath(script), content, mode: 0o755, uid: 0, gid: 0 }];
  }

  async #open(planned: PlannedMount): Promise<StepMount | undefined> {
    const { mount } = planned;
    switch (mount.type) {
      case 'bind':
        return this.#bind(planned, mount);
      case 'cache': {
        const { target, readOnly } = mount;
        return { kind: 'cache', target, directory: await this.#cache(planned, mount), readOnly };
      }
      case 'tmpfs':
        return { kind: 'tmpfs', target: mount.target, size: mount.size };
      case 'secret':
        return this.#secret(mount);
      case 'ssh': {
        const listen = this.#resources.agents.get(mount.id, mount.required, this.#step.where);
        if (listen === undefined) return undefined;
        return { kind: 'socket', target: mount.target, listen, ...ownerOf(mount, socketMode) };
      }
    }
  }

  async #bind({ source, tree }: PlannedMount, mount: Mount<'bind'>): Promise<StepMount | undefined> {
    const { target, readOnly, source: path } = mount;
    const { where } = this.#step;
    const about = { kind: 'tree', target, readOnly, path } as const;
    if (tree !== undefined)
      return { ...about, source: { kind: 'directory' }, query: mountQuery(mount, tree, where) };
    const treeName = nameOf(source);
    const query = { root: '/', patterns: [mountPattern(mount)], ignore: [], where, treeName };
    const layers = source === undefined ? emptyStack : await this.#stage.layersOf(source);
    return { ...about, source: { kind: 'layers', layers }, query };
  }

  #secret(mount: Mount<'secret'>): StepMount | undefined {
    const { id, required, env, target } = mount;
    const content = this.#resources.secrets.get(id, required, this.#step.where);
    if (content === undefined) return undefined;
    if (env !== undefined) this.#env[env] = Buffer.from(content).toString('utf8');
    return target === undefined
      ? undefined
      : { kind: 'file', target, content, ...ownerOf(mount, secretMode) };
  }

  async #cache(planned: PlannedMount, mount: Mount<'cache'>): Promise<string> {
    const { uid = 0, gid = 0, mode = 0o755, id, sharing } = mount;
    const { volume, progress, signal } = this.#resources;
    const variant = await this.#variantOf(planned, mount);
    const name = JSON.stringify([id, variant]);
    const known = this.#caches.get(name);
    if (known !== undefined) return known;
    const isFilled = planned.source !== undefined || planned.tree !== undefined;
    const acquired = acquireCacheMount(
      volume,
      {
        id,
        variant,
        sharing,
        owner: { uid, gid },
        mode,
        onWait: () => progress.info(`another step has the cache ${id}; waiting for it`),
        ...(isFilled ? { fill: (directory) => this.#fill(directory, planned, mount) } : {}),
      },
      signal,
    ).then((lease) => this.#leases.use(lease).directory);
    this.#caches.set(name, acquired);
    return acquired;
  }

  /** What tells a cache from others of the same id: its owner and mode when they are given, and what it began with. */
  async #variantOf({ source, tree, reading }: PlannedMount, mount: Mount<'cache'>): Promise<CanonicalValue> {
    const { mode = null, uid = null, gid = null, source: path } = mount;
    if (source === undefined && tree === undefined) return { mode, uid, gid, from: null };
    const options = { owners: false, modes: true, signal: this.#resources.signal };
    const from =
      source !== undefined
        ? await this.#stage.chainOf(source)
        : (reading ?? (tree && (await readTree(mountQuery(mount, tree, this.#step.where), options))))?.digest;
    return { mode, uid, gid, from: { content: from ?? null, path } };
  }

  async #fill(directory: string, { source, tree }: PlannedMount, mount: Mount<'cache'>): Promise<void> {
    const { isolation, scratch, signal } = this.#resources;
    const { where } = this.#step;
    const query =
      tree === undefined
        ? { root: '/', patterns: [mountPattern(mount)], ignore: [], where, treeName: nameOf(source) }
        : mountQuery(mount, tree, where);
    const request = {
      query,
      files: [],
      destination: '/',
      chown: undefined,
      chmod: undefined,
      keepOwners: tree === undefined,
      unpackArchives: false,
      where,
    };
    const files =
      source === undefined
        ? ({ kind: 'directory' } as const)
        : ({ kind: 'layers', layers: await this.#stage.layersOf(source) } as const);
    await isolation.gather(files, request, directory, scratch, signal);
  }

  /** Gives back what was taken, when not all could be opened. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#leases.disposeAsync();
  }
}

/** What `scratch` has. */
const emptyStack: LayerStack = {
  directories: () => Promise.resolve([]),
  sources: () => Promise.resolve([]),
};

function nameOf(source: PlannedBase | undefined): string {
  return source?.kind === 'stage' ? `stage ${source.stage.label}` : 'the image';
}

function ownerOf(
  { mode, uid, gid }: MountOwner,
  defaultMode: number,
): { readonly mode: number; readonly uid: number; readonly gid: number } {
  return { mode: mode ?? defaultMode, uid: uid ?? 0, gid: gid ?? 0 };
}
