import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { accepts } from './http.ts';
import { freePort } from './registry.ts';

/** A running `tinyproxy`. */
export interface TestProxy extends AsyncDisposable {
  readonly host: string;
  /** What it was asked: `CONNECT host:port` and `GET http://host/path`. */
  requests(): Promise<string[]>;
}

/** @param login of those who may use it; everybody otherwise. */
export async function startProxy(login?: { user: string; password: string }): Promise<TestProxy> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-proxy-'));
  const port = await freePort();
  const log = join(directory, 'log');
  const config = join(directory, 'tinyproxy.conf');
  await writeFile(
    config,
    [
      `Port ${port}`,
      'Listen 127.0.0.1',
      `LogFile "${log}"`,
      'LogLevel Connect',
      'MaxClients 100',
      ...(login === undefined ? [] : [`BasicAuth ${login.user} ${login.password}`]),
      '',
    ].join('\n'),
  );
  const child = spawn('tinyproxy', ['-d', '-c', config], { stdio: 'ignore' });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  for (let attempt = 0; !(await accepts(port)); attempt++) {
    if (attempt > 200 || child.exitCode !== null) throw new Error('tinyproxy did not start');
    await sleep(25);
  }
  return {
    host: `127.0.0.1:${port}`,
    requests: async () => {
      const lines = (await readFile(log, 'utf8')).split('\n');
      return lines.flatMap((line) => /Request \(file descriptor [0-9]+\): (.+) HTTP/.exec(line)?.[1] ?? []);
    },
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGKILL');
      await ended;
      await rm(directory, { recursive: true, force: true });
    },
  };
}
