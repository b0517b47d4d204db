import { EnvironmentError, messageOf, type Progress } from '../../src/support/index.ts';
import type { InplaceOptions } from './inplace/index.ts';
import { OverlayIsolation } from './overlay.ts';
import type { Isolation } from './types.ts';

export const isolationKinds = ['auto', 'overlay', 'inplace'] as const;
export type IsolationKind = (typeof isolationKinds)[number];

export interface IsolationOptions extends InplaceOptions {
  readonly kind: IsolationKind;
  /** Where the build keeps its own files. */
  readonly scratch: string;
}

/**
 * Opens the backend that was asked for; with `auto` overlay where it works, otherwise in place. Says which it is and why.
 *
 * @throws EnvironmentError `E_ISOLATION_…`, `E_INPLACE_…` naming what is missing.
 */
export async function openIsolation(options: IsolationOptions): Promise<Isolation> {
  const { kind, scratch, progress } = options;
  if (kind === 'inplace') return inplace(options);
  const overlay = new OverlayIsolation();
  if (kind === 'overlay') return overlay;
  try {
    await overlay.preflight(scratch);
    tell(progress, 'overlay', 'overlay file systems can be mounted');
    return overlay;
  } catch (error) {
    await overlay[Symbol.asyncDispose]();
    if (!(error instanceof EnvironmentError)) throw error;
    const other = await inplace(options).catch((cause: unknown) => neither(error, cause));
    tell(progress, 'in place', error.message);
    return other;
  }
}

async function inplace(options: IsolationOptions): Promise<Isolation> {
  // Loaded only where it is wanted: most builds start faster without.
  const { InplaceIsolation } = await import('./inplace/index.ts');
  const isolation = new InplaceIsolation(options);
  await isolation.preflight();
  return isolation;
}

function tell(progress: Progress, choice: string, reason: string): void {
  progress.info(`steps run ${choice === 'overlay' ? 'on an overlay' : choice}: ${reason}`);
}

function neither(overlay: EnvironmentError, cause: unknown): never {
  if (!(cause instanceof EnvironmentError)) throw cause;
  throw new EnvironmentError(`steps cannot run here: ${overlay.message}; and ${messageOf(cause)}`, {
    code: 'E_ISOLATION_NONE',
    cause: overlay,
    remedy: overlay.remedy,
  });
}
