import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import {
  applyLayer,
  captureLayer,
  type CapturedLayer,
  clearUnchanged,
  LayerProblems,
  type LayerSource,
  Territory,
  TreeChanges,
  TreeState,
  waitForLaterChanges,
} from '../../../src/layer/index.ts';
import type { Digest } from '../../../src/oci/index.ts';
import { EnvironmentError, randomName } from '../../../src/support/index.ts';
import {
  copyInto,
  type CopyRequest,
  makeDirectory,
  type SourceQuery,
  treeDigest,
} from '../../context/index.ts';
import type { Capture, Problems, RootOptions, StepView } from './messages.ts';
import { Slate } from './slate.ts';

/** Mounted over in every container, however it is run: no step expects to see the image's own there. */
const systemPaths = ['dev', 'proc', 'sys', 'etc/hosts', 'etc/hostname', 'etc/resolv.conf'];

/**
 * The root of the container and the trees beside it, for the thread that owns them. All calls are made one after the
 * other; only one stage has the root open.
 */
export class InplaceRoot {
  readonly #options: RootOptions;
  readonly #slate: Slate;
  /** The layers that the root shows; undefined when it shows none, or nobody knows which. */
  #applied: LayerSource[] | undefined;
  #state: TreeState | undefined;
  /** The look before that one: its memory serves the next. */
  #spare: TreeState | undefined;
  /** Whether other stages copy from what the root is now. */
  #isSource = false;
  #isOpen = false;
  /** Trees of stages that were, and of images, by their layers. */
  readonly #trees = new Map<string, KeptTree>();
  #problems = new LayerProblems();

  constructor(options: RootOptions) {
    this.#options = options;
    this.#slate = new Slate(options);
  }

  /** What could not be made since this was last asked. */
  takeProblems(): Problems {
    const { nodes, attributes } = this.#problems;
    this.#problems = new LayerProblems();
    return { nodes, attributes };
  }

  /**
   * Makes the root the tree of these layers. When it is that of the first of them, only the others are applied; otherwise
   * it is cleaned first, and kept aside if other stages copy from it.
   */
  async open(layers: readonly LayerSource[], isSource: boolean): Promise<void> {
    this.#isOpen = true;
    const applied = this.#applied ?? [];
    const goesOn =
      this.#applied !== undefined && applied.every(({ diffID }, index) => diffID === layers[index]?.diffID);
    // A stage that others copy from must stay as it is while the next one goes on from it.
    if (!goesOn || (this.#isSource && !this.#trees.has(treeKey(applied)))) this.#clear();
    await this.#apply(layers);
    this.#isSource = isSource;
  }

  #clear(): void {
    if (this.#isSource && this.#applied !== undefined)
      this.#trees.set(treeKey(this.#applied), keptTree(this.#slate.keep()));
    this.#applied = undefined;
    this.#isSource = false;
    this.#slate.clean();
  }

  async #apply(layers: readonly LayerSource[]): Promise<void> {
    const done = this.#applied?.length ?? 0;
    if (this.#applied !== undefined && done === layers.length && this.#state !== undefined) return;
    this.#applied = undefined;
    for (const layer of layers.slice(done)) {
      this.#note(await applyLayer(this.#slate.territory, layer));
      this.#slate.saveRelocations();
    }
    this.#remember(this.#look());
    this.#applied = [...layers];
  }

  #note({ nodes, attributes }: LayerProblems): void {
    this.#problems.nodes.push(...nodes);
    this.#problems.attributes.push(...attributes);
  }

  /** Looks at the root. Every change from then on is a later one than any before. */
  #look(): TreeState {
    const state = TreeState.read(this.#slate.territory, { previous: this.#state, spare: this.#spare });
    this.#spare = undefined;
    waitForLaterChanges(this.#options.work, state.newestChange);
    return state;
  }

  /** Changes are told from this look on. */
  #remember(state: TreeState): void {
    this.#spare = this.#state;
    this.#state = state;
  }

  /** The stage that had the root open is done with it. */
  close(): void {
    this.#isOpen = false;
  }

  /**
   * A tree of layers, as a directory to copy from: that of a stage which was, or made in `scratch`.
   */
  async tree(layers: readonly LayerSource[], scratch: string): Promise<string> {
    const key = treeKey(layers);
    const known = this.#trees.get(key);
    if (known !== undefined) {
      requireUnaltered(known);
      return known.path;
    }
    const [only] = layers;
    if (layers.length === 1 && only?.kind === 'directory') return only.path;
    const tree = keptTree(await this.#makeTree(layers, key, scratch));
    this.#trees.set(key, tree);
    return tree.path;
  }

  async #makeTree(layers: readonly LayerSource[], key: string, scratch: string): Promise<string> {
    if (!this.#isOpen && this.#applied !== undefined && treeKey(this.#applied) === key) {
      this.#applied = undefined;
      return this.#slate.keep();
    }
    const root = join(scratch, randomName('tree-'));
    mkdirSync(root, { mode: 0o755 });
    const territory = new Territory({ root });
    for (const layer of layers) this.#note(await applyLayer(territory, layer));
    return root;
  }

  /**
   * Carries out a COPY or ADD.
   *
   * @param source the tree to copy from; undefined for the request's own.
   * @returns what `copyInto` does.
   */
  async copy(source: string | undefined, request: CopyRequest): Promise<string> {
    const { territory } = this.#slate;
    const stamp = await copyInto(territory.root || '/', filledRequest(source, request), territory);
    this.#slate.saveRelocations();
    return stamp;
  }

  makeDirectory(path: string, user: string, where: string): void {
    makeDirectory(this.#slate.territory.root || '/', path, user, where, this.#slate.territory);
  }

  digest(tree: string, query: SourceQuery, modes: boolean): Promise<Digest> {
    return treeDigest({ ...query, root: tree }, { owners: true, modes });
  }

  /** What a step needs to be told of how its root differs from the image. */
  viewOf(workingDirectory: string): StepView {
    const { territory } = this.#slate;
    const foreign = territory.exclusions.filter((path) => !systemPaths.includes(path));
    const text = (path: string): string => `/${Buffer.from(path, 'latin1').toString()}`;
    const directory = Buffer.from(workingDirectory).toString('latin1').replace(/^\/+/, '');
    const around = foreign.find((path) => directory === path || directory.startsWith(`${path}/`));
    return {
      foreignDirectory: around === undefined ? undefined : text(around),
      hidden: foreign.filter((path) => existsSync(territory.bytes(path))).map(text),
    };
  }

  /** Captures what changed since the last look as a layer. @returns undefined when nothing changed. */
  async snapshot({ output, clampTime }: Capture): Promise<CapturedLayer | undefined> {
    if (this.#state === undefined || this.#applied === undefined) throw new Error('no tree is open');
    const { territory } = this.#slate;
    const state = this.#look();
    const changes = new TreeChanges(this.#state, state);
    await clearUnchanged(changes, territory, this.#applied);
    const captured = captureLayer(changes.entries(territory, clampTime), output);
    this.#remember(state);
    if (captured !== undefined)
      this.#applied.push({
        kind: 'archive',
        diffID: captured.diffID,
        file: captured.file,
        compression: 'none',
      });
    return captured;
  }

  /** Leaves an empty root. @param isDeleting whether what was in it is deleted, and not only moved out of the way. */
  finish(isDeleting: boolean): void {
    this.#slate.clean();
    if (isDeleting) this.#slate.deleteAll();
  }
}

/** A request to copy from a tree; undefined for what the request itself names. */
export function filledRequest(source: string | undefined, request: CopyRequest): CopyRequest {
  const { query } = request;
  return source === undefined || query === undefined
    ? request
    : { ...request, query: { ...query, root: source } };
}

function treeKey(layers: readonly LayerSource[]): string {
  return layers.map(({ diffID }) => diffID).join(' ');
}

/** A tree aside, and how it was when it was put there: it lies where later steps could reach it. */
interface KeptTree {
  readonly path: string;
  readonly state: TreeState;
}

function keptTree(path: string): KeptTree {
  return { path, state: TreeState.read(new Territory({ root: path })) };
}

/** @throws EnvironmentError `E_INPLACE_ALTERED`. */
function requireUnaltered({ path, state }: KeptTree): void {
  const now = TreeState.read(new Territory({ root: path }));
  const [changed] = new TreeChanges(state, now).touched();
  if (changed === undefined) return;
  throw new EnvironmentError(`a step changed what another stage has at /${changed}`, {
    code: 'E_INPLACE_ALTERED',
    where: path,
    remedy: 'Steps may not write below /kiln.',
  });
}
