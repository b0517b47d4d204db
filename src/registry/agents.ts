import { Agent } from 'undici';

/** Connection pools, for hosts whose certificates must verify and for those whose need not. */
export interface Agents {
  readonly verifying: Agent;
  readonly trusting: Agent;
}

/** Undici takes long to load, so this module is only imported when the first request is made. */
export function createAgents(): Agents {
  const options = { connections: 16, headersTimeout: 60_000, bodyTimeout: 120_000, keepAliveTimeout: 30_000 };
  return {
    verifying: new Agent({ ...options, connect: { timeout: 15_000 } }),
    trusting: new Agent({ ...options, connect: { timeout: 15_000, rejectUnauthorized: false } }),
  };
}
