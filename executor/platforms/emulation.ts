import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { formatPlatform, hostPlatform, type Platform, platformMatches } from '../../src/oci/index.ts';
import { findProgram } from '../../src/os/index.ts';
import { isAbortError, TemporaryDirectory } from '../../src/support/index.ts';
import { probeProgram } from './probe-program.ts';

/** Why programs of a platform do not run here, and what would change that. */
export interface NotRunnable {
  readonly reason: string;
  readonly remedy: string;
}

/** Flags of /proc/cpuinfo that each level of x86-64 adds (x86-64 psABI, "Micro-Architecture Levels"). */
const levels: readonly (readonly string[])[] = [
  ['cx16', 'lahf_lm', 'popcnt', 'sse4_1', 'sse4_2', 'ssse3'],
  ['avx', 'avx2', 'bmi1', 'bmi2', 'f16c', 'fma', 'abm', 'movbe', 'xsave'],
  ['avx512f', 'avx512bw', 'avx512cd', 'avx512dq', 'avx512vl'],
];

/**
 * Whether steps of a platform can run on this machine: by its processor, or by an interpreter that the kernel calls for
 * them (binfmt_misc). A program that ends at once is tried in an empty root, as a step's is: there an interpreter that
 * was registered without the flag F cannot be found either.
 *
 * @returns what is in the way; undefined when nothing is.
 */
export async function whyNotRunnable(
  platform: Platform,
  scratch: string,
  signal?: AbortSignal,
): Promise<NotRunnable | undefined> {
  const host = hostPlatform();
  if (platformMatches(platform, host)) return undefined;
  if (platform.os !== host.os)
    return {
      reason: `this machine runs programs of ${host.os} alone`,
      remedy: 'Leave RUN out of the stages that the image is made of.',
    };
  if (platform.architecture === host.architecture) return whyTooNew(platform);
  const program = probeProgram(platform.architecture);
  // Of what is not known here, the step itself will tell.
  if (program === undefined) return undefined;
  const trial = await tryProgram(program, scratch, signal);
  return trial.code === 0 ? undefined : explain(platform, trial);
}

/** Whether the processor is older than a variant of its own architecture wants. */
function whyTooNew({ architecture, variant }: Platform): NotRunnable | undefined {
  const level = architecture === 'amd64' ? Number(/^v([0-9]+)$/.exec(variant ?? '')?.[1] ?? 1) : 1;
  const has = new Set(/^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' '));
  const missing = levels
    .slice(0, Math.max(0, level - 1))
    .flatMap((flags) => flags.filter((flag) => !has.has(flag)));
  if (missing.length === 0) return undefined;
  return {
    reason: `the processor of this machine has no ${missing.slice(0, 3).join(', ')}`,
    remedy: 'Build on a newer machine, or for an older variant.',
  };
}

/** How the program was tried. */
interface Trial {
  /** That of the program, or as env(1) and unshare(1) have it: 126 for one that is none here, 127 for one that is not there. */
  readonly code: number;
  readonly output: string;
}

async function tryProgram(program: Uint8Array, scratch: string, signal?: AbortSignal): Promise<Trial> {
  await using root = await TemporaryDirectory.create(scratch, 'probe-');
  const path = join(root.path, 'probe');
  await writeFile(path, program);
  await chmod(path, 0o755);
  // execvp(3) gives what the kernel does not know to a shell. This one cannot be executed.
  await mkdir(join(root.path, 'bin/sh'), { recursive: true });
  for (let attempt = 1; ; attempt++) {
    const trial = await runIn(root.path, '/probe', signal);
    // Another process that was just being started may still have it open.
    if (!trial.output.includes('Text file busy') || attempt === 5) return trial;
    await sleep(50 * attempt, undefined, signal === undefined ? {} : { signal });
  }
}

function runIn(root: string, program: string, signal: AbortSignal | undefined): Promise<Trial> {
  return new Promise((resolve, reject) => {
    const options = { env: { LC_ALL: 'C' }, timeout: 60_000, ...(signal === undefined ? {} : { signal }) };
    const command = findProgram('unshare') ?? 'unshare';
    execFile(command, ['--root', root, program], options, (error, _stdout, stderr) => {
      if (error instanceof Error && isAbortError(error)) reject(error);
      else if (error === null) resolve({ code: 0, output: '' });
      else if (typeof error.code === 'number') resolve({ code: error.code, output: stderr.trim() });
      else
        resolve({
          code: 1,
          output: error.killed === true ? 'it did not end within a minute' : error.message,
        });
    });
  });
}

function explain(platform: Platform, { code, output }: Trial): NotRunnable {
  const { architecture } = platform;
  const remedy = `Register one on the machine: docker run --privileged --rm tonistiigi/binfmt --install ${architecture}, or the package qemu-user-static. Or cross-compile: FROM --platform=$BUILDPLATFORM.`;
  if (code === 127)
    return {
      reason: `the interpreter for ${formatPlatform(platform)} is registered without the flag F, so that steps cannot reach it`,
      remedy: remedy.replace('Register one', 'Register it anew, with F,'),
    };
  // The shell that may not be executed is what is left of a format that the kernel does not know.
  const isUnknown = output === '' || (code === 126 && output.endsWith('Permission denied'));
  const why = isUnknown ? '' : ` (${output.split('\n', 1)[0] ?? ''})`;
  return {
    reason: `this machine is ${formatPlatform(hostPlatform())}, and no interpreter for ${architecture} is registered (binfmt_misc)${why}`,
    remedy,
  };
}
