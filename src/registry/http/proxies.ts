import { BlockList, isIP } from 'node:net';
import { EnvironmentError, messageOf, type ProcessEnvironment } from '../../support/index.ts';

/**
 * The proxy that a request goes through, by `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` in capitals or not, as the programs
 * written in Go read them: entries of `NO_PROXY` are hosts (which cover the names below them), `.suffix` (only the names
 * below), addresses, networks such as `10.0.0.0/8`, each with `:port` or without, or `*`. This machine itself is never reached through
 * a proxy.
 *
 * @throws EnvironmentError `E_PROXY_INVALID`, which quotes no password.
 */
export function proxyFor(url: URL, environment: ProcessEnvironment): URL | undefined {
  const secure = url.protocol === 'https:';
  const name = secure ? 'HTTPS_PROXY' : 'HTTP_PROXY';
  const text = valueOf(environment, name);
  if (text === undefined) return undefined;
  const host = url.hostname.replace(/^\[|\]$/g, '').toLowerCase();
  const port = url.port === '' ? (secure ? '443' : '80') : url.port;
  if (isThisMachine(host)) return undefined;
  const exceptions = (valueOf(environment, 'NO_PROXY') ?? '').split(/[,\s]+/).filter((entry) => entry !== '');
  if (exceptions.some((entry) => covers(entry.toLowerCase(), host, port))) return undefined;
  return parseProxy(text, name);
}

function valueOf(environment: ProcessEnvironment, name: string): string | undefined {
  const values = [environment[name], environment[name.toLowerCase()]];
  return values.map((value) => value?.trim()).find((value) => value !== undefined && value !== '');
}

function parseProxy(text: string, name: string): URL {
  const full = /^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : `http://${text}`;
  if (URL.canParse(full)) {
    const url = new URL(full);
    if (/^(?:https?|socks5?):$/.test(url.protocol) && url.hostname !== '') return url;
  }
  throw new EnvironmentError(`${name} is not the address of a proxy`, {
    code: 'E_PROXY_INVALID',
    remedy: 'Write it as http://proxy.example:3128; http, https and socks5 are known.',
  });
}

/**
 * What a failure of a request means that went through a proxy.
 *
 * @returns EnvironmentError `E_PROXY_REFUSED` when the proxy does not let it pass; otherwise the error as it was.
 */
export function explainProxyError(error: unknown, proxy: URL, target: URL): unknown {
  const status = /\b(?:Proxy response \(([0-9]{3})\)|\((407)\))/.exec(messageOf(error));
  if (status === null) return error;
  const code = status[1] ?? status[2] ?? '';
  // A fault of the proxy may pass; undici calls this an abort, which it is not.
  if (code.startsWith('5')) return Object.assign(new Error(messageOf(error)), { code: 'UND_ERR_PROXY' });
  return new EnvironmentError(`the proxy ${proxy.host} refuses connections to ${target.host} (${code})`, {
    code: 'E_PROXY_REFUSED',
    remedy: 'Give it user and password (http://user:password@proxy), or name the host in NO_PROXY.',
  });
}

function isThisMachine(host: string): boolean {
  return host === 'localhost' || host.endsWith('.localhost') || host === '::1' || /^127\./.test(host);
}

/** Whether an entry of NO_PROXY covers a host. */
function covers(entry: string, host: string, port: string): boolean {
  if (entry === '*') return true;
  const network = /^([0-9a-f:.]+)\/([0-9]{1,3})$/.exec(entry);
  if (network !== null) return inNetwork(host, network[1] ?? '', Number(network[2]));
  const [name, wantedPort] = splitPort(entry);
  if (wantedPort !== undefined && wantedPort !== port) return false;
  const bare = name.replace(/^\*(?=\.)/, '');
  if (bare.startsWith('.')) return host.endsWith(bare);
  return host === bare || (isIP(host) === 0 && host.endsWith(`.${bare}`));
}

function splitPort(entry: string): [string, string | undefined] {
  const bracketed = /^\[([^\]]+)\](?::([0-9]+))?$/.exec(entry);
  if (bracketed !== null) return [bracketed[1] ?? '', bracketed[2]];
  const parts = entry.split(':');
  return parts.length === 2 ? [parts[0] ?? '', parts[1]] : [entry, undefined];
}

function inNetwork(host: string, address: string, prefix: number): boolean {
  const family = isIP(host);
  if (family === 0 || isIP(address) !== family || prefix > (family === 4 ? 32 : 128)) return false;
  const type = family === 4 ? 'ipv4' : 'ipv6';
  const list = new BlockList();
  list.addSubnet(address, prefix, type);
  return list.check(host, type);
}
