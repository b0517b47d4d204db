import type { ChildProcess } from 'node:child_process';
import { mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { eventually } from './daemon.ts';
import { type Ended, kiln, type RunOptions } from './programs.ts';

/** A line of the log of `warmer daemon --log-format json`. */
export interface LogLine {
  readonly level: string;
  readonly type: string;
  readonly message: string;
  readonly [field: string]: unknown;
}

/** `warmer daemon` as a process of its own; killed when disposed. */
export interface DaemonProcess extends AsyncDisposable {
  readonly pid: number;
  readonly lines: readonly LogLine[];
  /** Waits for a line of the log, from those so far or later. */
  line(wanted: (line: LogLine) => boolean, what: string): Promise<LogLine>;
  /** Sends a signal, and waits for the end unless it is one that the daemon survives. */
  signal(name: 'SIGHUP'): void;
  end(name: 'SIGTERM' | 'SIGINT' | 'SIGKILL'): Promise<Ended>;
}

export async function startDaemonProcess(
  args: readonly string[],
  options: Pick<RunOptions, 'compiled'> = {},
): Promise<DaemonProcess> {
  const started = Promise.withResolvers<ChildProcess>();
  const ended = kiln('warmer', ['daemon', '--log-format', 'json', '--listen', '127.0.0.1:0', ...args], {
    ...options,
    onStart: started.resolve,
  });
  const child = await started.promise;
  const lines: LogLine[] = [];
  let pending = '';
  let over: Ended | undefined;
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    const all = (pending + text).split('\n');
    pending = all.pop() ?? '';
    for (const line of all) if (line.startsWith('{')) lines.push(JSON.parse(line) as LogLine);
  });
  void ended.then((result) => {
    over = result;
  });
  return {
    pid: child.pid ?? 0,
    lines,
    line: (wanted, what) =>
      eventually(() => {
        const found = lines.find(wanted);
        if (found === undefined && over !== undefined) throw new Error(`it ended: ${over.stderr}`);
        return Promise.resolve(found);
      }, what),
    signal: (name) => void child.kill(name),
    end: (name) => {
      child.kill(name);
      return ended;
    },
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

/** Files mounted as kubelet mounts a ConfigMap: links into a directory that is replaced as a whole. */
export class ConfigMapMount {
  readonly directory: string;
  #version = 0;

  constructor(directory: string) {
    this.directory = directory;
  }

  /** Puts another version of the files there, in the steps that kubelet takes. */
  async update(files: Readonly<Record<string, string>>): Promise<void> {
    const before = `..2026_11_24_10_00_00.${this.#version}`;
    const name = `..2026_11_24_10_00_00.${++this.#version}`;
    await mkdir(join(this.directory, name), { recursive: true });
    for (const [file, content] of Object.entries(files))
      await writeFile(join(this.directory, name, file), content);
    await symlink(name, join(this.directory, '..data_tmp'));
    await rename(join(this.directory, '..data_tmp'), join(this.directory, '..data'));
    for (const file of Object.keys(files))
      await symlink(join('..data', file), join(this.directory, file)).catch(() => undefined);
    await rm(join(this.directory, before), { recursive: true, force: true });
  }
}
