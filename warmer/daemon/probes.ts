import { messageOf, systemErrorCode } from '../../src/support/index.ts';
import type { StatusCache } from './status-cache.ts';
import type { WarmingStatus } from './types.ts';

/** The answer to one of Kubernetes' probes, with the checks behind it. */
export interface Probe {
  readonly name: 'livez' | 'readyz' | 'startupz';
  readonly ok: boolean;
  readonly checks: WarmingStatus['checks'];
}

/**
 * Whether a restart is pointless. Only a daemon that does not say how it is at all is not live: neither a registry that
 * is down nor a volume that is full gets better by starting over.
 */
export async function isLive(status: StatusCache): Promise<Probe> {
  try {
    await status.get();
    return { name: 'livez', ok: true, checks: [{ name: 'daemon', ok: true, detail: 'it answers' }] };
  } catch (error) {
    const ok = systemErrorCode(error) !== 'E_WARMER_STUCK';
    return { name: 'livez', ok, checks: [{ name: 'daemon', ok, detail: messageOf(error) }] };
  }
}

/** Whether builds find what is configured. A registry that is down later changes nothing about what is warm. */
export async function isReady(status: StatusCache): Promise<Probe> {
  try {
    const { ready, checks } = await status.get();
    return { name: 'readyz', ok: ready, checks };
  } catch (error) {
    return { name: 'readyz', ok: false, checks: [{ name: 'daemon', ok: false, detail: messageOf(error) }] };
  }
}

/** Whether the daemon has begun: its configuration is in force and its volume open. The first round may still last. */
export async function isStarted(status: StatusCache): Promise<Probe> {
  const { checks } = status.known ? { checks: [] } : await isLive(status);
  const detail = status.known ? 'it has begun' : (checks[0]?.detail ?? 'it has not begun');
  return { name: 'startupz', ok: status.known, checks: [{ name: 'daemon', ok: status.known, detail }] };
}
