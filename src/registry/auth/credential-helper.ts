import { spawn } from 'node:child_process';
import { EnvironmentError, messageOf, systemErrorCode } from '../../support/index.ts';
import type { Credential } from './credential.ts';

/** The largest answer that is read from a helper, in characters. */
const maximumAnswer = 1024 * 1024;

/**
 * Runs `docker-credential-<name> get`, the protocol of Docker's credential helpers.
 *
 * @param host what the helper is asked for.
 * @returns `'not-installed'` when there is no such program, undefined when it has no credential.
 * @throws EnvironmentError `E_CREDENTIAL_HELPER`, which quotes nothing that the helper said.
 */
export async function askHelper(
  name: string,
  host: string,
  signal?: AbortSignal,
): Promise<Credential | 'not-installed' | undefined> {
  const program = `docker-credential-${name}`;
  const ended = await run(program, 'get', host, signal);
  if (ended === 'not-installed') return ended;
  if (ended.code !== 0) {
    if (ended.output.includes('credentials not found')) return undefined;
    throw helperError(name, `it ended with ${ended.code ?? 'a signal'}`);
  }
  let answer: { Username?: unknown; Secret?: unknown };
  try {
    answer = JSON.parse(ended.output) as typeof answer;
  } catch {
    // Its output may hold a secret, so it is not quoted.
    throw helperError(name, 'its answer is not JSON');
  }
  if (typeof answer.Secret !== 'string' || answer.Secret === '') return undefined;
  return answer.Username === '<token>'
    ? { kind: 'identity', token: answer.Secret, source: program }
    : { kind: 'basic', username: String(answer.Username), password: answer.Secret, source: program };
}

/**
 * Has `docker-credential-<name>` keep a login, or forget it (`store` and `erase` of the protocol).
 *
 * @throws EnvironmentError `E_CREDENTIAL_HELPER`, which quotes nothing that the helper said.
 */
export async function tellHelper(
  name: string,
  change: { readonly store: { username: string; password: string } } | { readonly erase: true },
  host: string,
  signal?: AbortSignal,
): Promise<void> {
  const stores = 'store' in change;
  const input = stores
    ? JSON.stringify({ ServerURL: host, Username: change.store.username, Secret: change.store.password })
    : host;
  const ended = await run(`docker-credential-${name}`, stores ? 'store' : 'erase', input, signal);
  if (ended === 'not-installed') throw helperError(name, 'it is not installed');
  const unknown = !stores && ended.output.includes('credentials not found');
  if (ended.code !== 0 && !unknown) throw helperError(name, `it ended with ${ended.code ?? 'a signal'}`);
}

/** A helper that is named but of no use. */
export function helperError(name: string, why: string, cause?: unknown): EnvironmentError {
  return new EnvironmentError(`the credential helper docker-credential-${name} failed: ${why}`, {
    code: 'E_CREDENTIAL_HELPER',
    cause,
    remedy: `Install it, or take ${name} out of Docker's config.json.`,
  });
}

function run(
  program: string,
  action: 'get' | 'store' | 'erase',
  input: string,
  signal: AbortSignal | undefined,
): Promise<{ code: number | null; output: string } | 'not-installed'> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, [action], {
      stdio: ['pipe', 'pipe', 'ignore'],
      ...(signal === undefined ? {} : { signal }),
    });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      output += chunk;
      if (output.length > maximumAnswer) child.kill();
    });
    child.once('error', (error) => {
      if (systemErrorCode(error) === 'ENOENT') resolve('not-installed');
      else if (signal?.aborted === true) reject(error);
      else reject(helperError(program.replace('docker-credential-', ''), messageOf(error), error));
    });
    child.once('close', (code) => resolve({ code, output }));
    child.stdin.on('error', () => child.kill());
    child.stdin.end(input);
  });
}
