import { execFileSync, spawn } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { accepts } from './http.ts';
import { freePort } from './registry.ts';

/** A running sshd of this machine, for root and one key. */
export interface SshServer extends AsyncDisposable {
  readonly port: number;
  /** The private key that it lets in. */
  readonly key: string;
  /** A line of known_hosts with its key. */
  readonly knownHost: string;
}

/** @param directory where its files are put. */
export async function startSshServer(directory: string): Promise<SshServer> {
  mkdirSync(directory, { recursive: true });
  mkdirSync('/run/sshd', { recursive: true });
  for (const name of ['host', 'user'])
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(directory, name)]);
  copyFileSync(join(directory, 'user.pub'), join(directory, 'authorized'));
  const port = await freePort();
  const config = join(directory, 'sshd_config');
  writeFileSync(
    config,
    [
      ...[`Port ${port}`, 'ListenAddress 127.0.0.1', `HostKey ${directory}/host`, 'PidFile none'],
      ...[
        `AuthorizedKeysFile ${directory}/authorized`,
        'StrictModes no',
        'UsePAM no',
        'PasswordAuthentication no',
      ],
      ...[
        'PermitRootLogin prohibit-password',
        'SetEnv GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=*',
      ],
      '',
    ].join('\n'),
  );
  const child = spawn('/usr/sbin/sshd', ['-D', '-e', '-f', config], { stdio: 'ignore' });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  for (let attempt = 0; !(await accepts(port)); attempt++) {
    if (attempt > 200 || child.exitCode !== null) throw new Error('sshd did not start');
    await sleep(25);
  }
  const [kind = '', key = ''] = readFileSync(join(directory, 'host.pub'), 'utf8').split(' ');
  return {
    port,
    key: join(directory, 'user'),
    knownHost: `[127.0.0.1]:${port} ${kind} ${key}\n`,
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGTERM');
      await ended;
    },
  };
}
