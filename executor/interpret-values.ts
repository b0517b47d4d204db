import { constants } from 'node:os';
import type { HealthcheckInstruction } from '../src/dockerfile/index.ts';
import type { HealthConfig } from '../src/oci/index.ts';
import { BuildError } from '../src/support/index.ts';

/** @param written as the Dockerfile has it. @throws BuildError for what is no signal of Linux. */
export function requireSignal(signal: string, where: string, written: string): string {
  const name = signal.toUpperCase().replace(/^(?:SIG)?/, 'SIG');
  const known = /^[0-9]+$/.test(signal)
    ? Number(signal) >= 1 && Number(signal) <= 64
    : name in constants.signals || /^SIGRT(?:MIN(?:\+[0-9]+)?|MAX(?:-[0-9]+)?)$/.test(name);
  if (known) return signal;
  throw new BuildError(`"${signal}" is not a signal`, {
    code: 'E_DOCKERFILE_SYNTAX',
    where,
    subject: written,
    remedy: 'Write STOPSIGNAL SIGTERM, or a number.',
  });
}

/** The ports of `[[address:]host port:]port[-port][/protocol]`; only the container's own counts. @throws BuildError. */
export function portsOf(word: string, where: string): string[] {
  const match =
    /^(?:(?:(?:\[[0-9a-f:.]+\]|[0-9.]*):)?[0-9]*(?:-[0-9]+)?:)?([0-9]{1,5})(?:-([0-9]{1,5}))?(?:\/(tcp|udp|sctp)?)?$/i.exec(
      word,
    );
  const from = Number(match?.[1] ?? NaN);
  const to = Number(match?.[2] ?? from);
  if (match === null || from > to || to > 65535)
    throw new BuildError(`"${word}" is not a port`, {
      code: 'E_DOCKERFILE_SYNTAX',
      where,
      subject: word,
      remedy: 'Write EXPOSE 80, 80/udp or 8000-8010.',
    });
  const protocol = (match[3] ?? 'tcp').toLowerCase();
  return Array.from({ length: to - from + 1 }, (_, index) => `${from + index}/${protocol}`);
}

/** The health check as the configuration has it. */
export function healthOf(instruction: HealthcheckInstruction): HealthConfig {
  const { command, interval, timeout, startPeriod, startInterval, retries } = instruction;
  if (command === undefined) return { Test: ['NONE'] };
  return {
    Test: command.form === 'exec' ? ['CMD', ...command.command] : ['CMD-SHELL', command.command],
    ...(interval === undefined ? {} : { Interval: interval }),
    ...(timeout === undefined ? {} : { Timeout: timeout }),
    ...(startPeriod === undefined ? {} : { StartPeriod: startPeriod }),
    ...(startInterval === undefined ? {} : { StartInterval: startInterval }),
    ...(retries === undefined ? {} : { Retries: retries }),
  };
}
