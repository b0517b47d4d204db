import { UsageError } from '../../src/support/index.ts';

/** Where a server listens. */
export interface ListenAddress {
  /** Undefined: on all addresses of the machine. */
  readonly host: string | undefined;
  /** 0: one that is free. */
  readonly port: number;
}

/**
 * Parses `:9456`, `127.0.0.1:9456`, `[::1]:9456` or `localhost:9456`.
 *
 * @throws UsageError `E_LISTEN_ADDRESS_INVALID`.
 */
export function parseListenAddress(text: string): ListenAddress {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]*)):([0-9]{1,5})$/.exec(text);
  const [, address, name, port] = match ?? [];
  if (match === null || Number(port) > 65535)
    throw new UsageError(`"${text}" is not an address to listen at`, {
      code: 'E_LISTEN_ADDRESS_INVALID',
      remedy: 'Write it as :9456, 127.0.0.1:9456 or [::1]:9456.',
    });
  const host = address ?? name;
  return { host: host === '' ? undefined : host, port: Number(port) };
}

/** As a user would write it into a browser. */
export function formatListenAddress({ host, port }: ListenAddress): string {
  return `${host === undefined ? '' : host.includes(':') ? `[${host}]` : host}:${port}`;
}
