import { EnvironmentError, messageOf, type Progress } from '../../src/support/index.ts';
import { runsFromHome } from '../home.ts';
import type { InplaceOptions } from './inplace/index.ts';
import { canSurelyMount } from './mount-rights.ts';
import { OverlayIsolation } from './overlay.ts';
import type { Isolation } from './types.ts';
import { UnavailableIsolation } from './unavailable.ts';

export const isolationKinds = ['auto', 'overlay', 'inplace'] as const;
export type IsolationKind = (typeof isolationKinds)[number];

export interface IsolationOptions extends InplaceOptions {
  readonly kind: IsolationKind;
  /** Where the build keeps its own files. */
  readonly scratch: string;
}

/** What `auto` comes to in a place, and why. */
export interface BackendChoice {
  /** Undefined when steps cannot run at all. */
  readonly kind: 'overlay' | 'inplace' | undefined;
  /** What is in the way of each backend; undefined when nothing is. */
  readonly overlay: EnvironmentError | undefined;
  readonly inplace: EnvironmentError | undefined;
}

/**
 * Opens the backend that was asked for. With `auto`: overlay where mounting works; otherwise in place, if this is a container
 * of Kiln's own image; and otherwise one that fails when a step is to run, naming what is in the way of both.
 *
 * @throws EnvironmentError `E_INPLACE_…` when in place was asked for and is refused.
 */
export async function openIsolation(options: IsolationOptions): Promise<Isolation> {
  const { kind, scratch, progress } = options;
  if (kind === 'inplace') return openInplace(options);
  // Outside of its own containers Kiln never builds in place, so that nothing has to be tried before a step needs it.
  if (kind === 'overlay' || !runsFromHome() || (await canSurelyMount(scratch))) return new OverlayIsolation();
  const choice = await chooseBackend(scratch, options);
  if (choice.kind === 'overlay') return new OverlayIsolation();
  if (choice.kind === undefined) return new UnavailableIsolation(noBackend(choice));
  tellInplace(progress, choice);
  return openInplace(options);
}

/** Tries what each backend needs. Mounts something for a moment, and takes nothing over. */
export async function chooseBackend(scratch: string, options: InplaceOptions): Promise<BackendChoice> {
  const overlay = await obstacle(async () => {
    await using isolation = new OverlayIsolation();
    await isolation.preflight(scratch);
  });
  const inplace = await obstacle(() => openInplace(options));
  const kind = overlay === undefined ? 'overlay' : inplace === undefined ? 'inplace' : undefined;
  return { kind, overlay, inplace };
}

async function openInplace(options: InplaceOptions): Promise<Isolation> {
  // Loaded only where it is wanted: most builds start faster without.
  const { InplaceIsolation } = await import('./inplace/index.ts');
  const isolation = new InplaceIsolation(options);
  await isolation.preflight();
  return isolation;
}

async function obstacle(attempt: () => Promise<unknown>): Promise<EnvironmentError | undefined> {
  try {
    await attempt();
    return undefined;
  } catch (error) {
    if (error instanceof EnvironmentError) return error;
    throw error;
  }
}

function tellInplace(progress: Progress, { overlay }: BackendChoice): void {
  progress.info(`steps run in place: ${overlay?.message ?? ''}`);
}

/** The error for a place where no backend works. */
export function noBackend({ overlay, inplace }: BackendChoice): EnvironmentError {
  return new EnvironmentError(`steps cannot run here: ${overlay?.message ?? ''}; and ${messageOf(inplace)}`, {
    code: 'E_ISOLATION_NONE',
    cause: overlay,
    remedy: overlay?.remedy,
  });
}
