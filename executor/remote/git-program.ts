import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { authorizationOf, type HostTrust } from '../../src/registry/index.ts';
import { BuildError, EnvironmentError, hideCredentials, systemErrorCode } from '../../src/support/index.ts';
import { home, runsFromHome } from '../home.ts';

/** What git reads from its environment as if it stood in its configuration (git-config(1), GIT_CONFIG_COUNT). */
type Setting = readonly [name: string, value: string];

/** Files that ssh reads instead of those in `~/.ssh`. */
export interface SshFiles {
  readonly key: string | undefined;
  readonly knownHosts: string | undefined;
}

export interface GitProgramOptions {
  /** The repository, with user and password. */
  readonly remote: string;
  readonly trust: HostTrust;
  /** Whether redirects are followed. git would send its credentials after them, to whatever host they lead. */
  readonly follow: boolean;
  readonly ssh?: SshFiles | undefined;
  /** The Dockerfile and line. */
  readonly where: string;
  readonly signal?: AbortSignal | undefined;
}

const passedOn = [
  ...['PATH', 'HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY', 'ALL_PROXY'],
  ...['http_proxy', 'https_proxy', 'no_proxy', 'all_proxy', 'SSH_AUTH_SOCK'],
];
const longestOutput = 16 << 20;

/**
 * The git of the machine, for one repository. It asks nobody anything, runs no hook, reads nobody's configuration, and
 * takes nothing from the local disk, whatever submodules say. Credentials are in its environment only, not among its arguments,
 * which every process of the machine may read.
 */
export class GitProgram {
  /** The address without credentials. */
  readonly address: string;
  readonly #options: GitProgramOptions;
  readonly #environment: Readonly<Record<string, string>>;

  constructor(options: GitProgramOptions) {
    this.#options = options;
    const { address, settings } = split(options);
    this.address = address;
    const redirects: Setting = ['http.followRedirects', options.follow ? 'initial' : 'false'];
    const fixed = [...fixedSettings, redirects, ...ownCertificates()];
    this.#environment = environmentOf([...fixed, ...settings], sshOf(options.ssh));
  }

  /** How messages call the repository. */
  get name(): string {
    return hideCredentials(this.#options.remote);
  }

  /**
   * Runs git.
   *
   * @returns what it printed.
   * @throws BuildError `E_GIT_FAILED` with its own words; EnvironmentError `E_GIT_MISSING`.
   */
  async run(args: readonly string[], directory: string): Promise<string> {
    const { code, stdout, stderr } = await this.attempt(args, directory);
    if (code === 0) return stdout;
    throw this.failure(stderr);
  }

  /** {@link run} that tells how git ended instead of throwing. */
  async attempt(
    args: readonly string[],
    directory: string,
  ): Promise<{ readonly code: number | null; readonly stdout: string; readonly stderr: string }> {
    const { signal } = this.#options;
    signal?.throwIfAborted();
    const child = spawn('git', args, {
      cwd: directory,
      env: this.#environment,
      stdio: ['ignore', 'pipe', 'pipe'],
      // Its helpers are ended with it.
      detached: true,
    });
    const end = (): void => {
      if (child.pid !== undefined)
        try {
          process.kill(-child.pid, 'SIGKILL');
        } catch (error) {
          if (systemErrorCode(error) !== 'ESRCH') throw error;
        }
    };
    signal?.addEventListener('abort', end, { once: true });
    try {
      const result = await new Promise<{ code: number | null; stdout: string; stderr: string }>(
        (resolve, reject) => {
          let [stdout, stderr] = ['', ''];
          child.stdout.setEncoding('utf8').on('data', (text: string) => {
            if (stdout.length < longestOutput) stdout += text;
          });
          child.stderr.setEncoding('utf8').on('data', (text: string) => {
            stderr = (stderr + text).slice(-4096);
          });
          child.once('error', (cause) => reject(missing(cause)));
          child.once('close', (code) => resolve({ code, stdout, stderr }));
        },
      );
      signal?.throwIfAborted();
      return result;
    } finally {
      signal?.removeEventListener('abort', end);
    }
  }

  /** @param stderr what git said. */
  failure(stderr: string, remedy = remedyFor(stderr)): BuildError {
    const words = stderr
      .split('\n')
      .map((line) => line.trim())
      .filter((line) =>
        /^(?:fatal|error|remote|ssh|Host key|Permission|Load key)\b|: Permission denied/i.test(line),
      )
      .slice(0, 3)
      .map((line) => hideCredentials(line))
      .join('; ');
    return new BuildError(`git cannot read ${this.name}${words === '' ? '' : `: ${words}`}`, {
      code: 'E_GIT_FAILED',
      where: this.#options.where,
      remedy,
    });
  }
}

/** What to do about what git, or ssh below it, could not do. */
function remedyFor(stderr: string): string {
  if (/REMOTE HOST IDENTIFICATION HAS CHANGED/.test(stderr))
    return 'Its key is not the one in known_hosts: another machine may answer. Ask its owner, then correct that file.';
  if (/Host key verification failed|host key is known/i.test(stderr))
    return 'Its key is not known: compare what ssh-keyscan HOST says with what its owner publishes, and add it to ~/.ssh/known_hosts.';
  if (/UNPROTECTED PRIVATE KEY FILE|bad permissions/i.test(stderr))
    return 'Only its owner may read a private key: mode 0600, in a Kubernetes Secret defaultMode: 0400.';
  if (/Permission denied \(/.test(stderr))
    return 'Give ssh a key that the server knows: by an agent (SSH_AUTH_SOCK), or in ~/.ssh.';
  if (/cannot run ssh/.test(stderr)) return 'Install ssh, or use an address with https://.';
  return 'Check the address, the ref, and that access needs no question.';
}

const fixedSettings: readonly Setting[] = [
  ['core.hooksPath', '/dev/null'],
  ['core.fsmonitor', 'false'],
  ['core.autocrlf', 'false'],
  ['core.fileMode', 'true'],
  ['core.symlinks', 'true'],
  ['credential.helper', ''],
  ['init.defaultBranch', 'master'],
  ['advice.detachedHead', 'false'],
  ['gc.auto', '0'],
  ['maintenance.auto', 'false'],
  ['submodule.recurse', 'false'],
  ['transfer.credentialsInUrl', 'die'],
];

/** Not in the environment, where it would count for more than the certificate that a registry's flag names. */
function ownCertificates(): Setting[] {
  if (!runsFromHome()) return [];
  const file = process.env.GIT_SSL_CAINFO ?? join(home, 'ssl/certs/ca-certificates.crt');
  return [['http.sslCAInfo', file]];
}

/** Takes user and password out of an address that git would show. Those of ssh are names only, and stay. */
function split({ remote, trust }: GitProgramOptions): { address: string; settings: Setting[] } {
  if (!/^https?:\/\//i.test(remote)) return { address: remote, settings: [] };
  const url = new URL(remote);
  const login = authorizationOf(url);
  url.username = '';
  url.password = '';
  const of = (key: string, value: string): Setting => [`http.${url.origin}/.${key}`, value];
  const { certificate, clientCertificate, skipVerify } = trust;
  return {
    address: url.href,
    settings: [
      ...(login === undefined ? [] : [of('extraHeader', `Authorization: ${login}`)]),
      ...(certificate === undefined ? [] : [of('sslCAInfo', certificate)]),
      ...(clientCertificate === undefined
        ? []
        : [of('sslCert', clientCertificate.certificate), of('sslKey', clientCertificate.key)]),
      ...(skipVerify ? [of('sslVerify', 'false')] : []),
    ],
  };
}

/** How git runs ssh. In place there is no shell of ours, which a command with arguments would need. */
function sshOf(files: Partial<SshFiles> = {}): Record<string, string> {
  if (!runsFromHome()) return { GIT_SSH_COMMAND: sshCommand(files) };
  if (files.key === undefined && files.knownHosts === undefined) return ownGit();
  throw new EnvironmentError(
    "Kiln's own container has no shell, which git needs to tell ssh of other files",
    {
      code: 'E_GIT_SSH_FILES',
      remedy:
        'Put them into ~/.ssh, and leave out --git ssh-key and ssh-known-hosts; or use https:// and a token.',
    },
  );
}

/** A key that is unknown is never accepted, nor is anybody asked about it. */
function sshCommand({ key, knownHosts }: Partial<SshFiles> = {}): string {
  const words = ['ssh', '-F', '/dev/null', '-o', 'BatchMode=yes', '-o', 'StrictHostKeyChecking=yes'];
  // ssh itself splits at spaces what is not between quotes.
  if (knownHosts !== undefined) words.push('-o', `UserKnownHostsFile="${knownHosts}"`);
  if (key !== undefined) words.push('-o', 'IdentitiesOnly=yes', '-i', key);
  return words
    .map((word) => (/^[\w/.=-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`))
    .join(' ');
}

function environmentOf(
  settings: readonly Setting[],
  ssh: Readonly<Record<string, string>>,
): Record<string, string> {
  const inherited = passedOn.flatMap((name) => {
    const value = process.env[name];
    return value === undefined ? [] : [[name, value] as const];
  });
  return {
    ...Object.fromEntries(inherited),
    LC_ALL: 'C',
    HOME: '/dev/null',
    GIT_CONFIG_NOSYSTEM: '1',
    GIT_CONFIG_GLOBAL: '/dev/null',
    // Nobody is asked. Naming no program is as good as one that fails, and in place that one would be the image's.
    GIT_TERMINAL_PROMPT: '0',
    GIT_ASKPASS: '',
    // No file:, no ext:, neither for the repository nor for its submodules.
    GIT_ALLOW_PROTOCOL: 'http:https:ssh:git',
    ...ssh,
    GIT_OPTIONAL_LOCKS: '0',
    GIT_CONFIG_COUNT: String(settings.length),
    ...Object.fromEntries(
      settings.flatMap(([name, value], index) => [
        [`GIT_CONFIG_KEY_${index}`, name],
        [`GIT_CONFIG_VALUE_${index}`, value],
      ]),
    ),
  };
}

/**
 * Where the git of Kiln's image has its parts. In place, what lies where Debian's git looks for them is the image's that is
 * built, and so is the shell, which a command for ssh with arguments would need.
 */
function ownGit(): Record<string, string> {
  return {
    GIT_EXEC_PATH: join(home, 'libexec/git-core'),
    GIT_SSH: 'ssh',
  };
}

function missing(cause: unknown): EnvironmentError {
  return new EnvironmentError('a repository is read by the program git, which is not there', {
    code: 'E_GIT_MISSING',
    cause,
    remedy: 'Install git.',
  });
}
