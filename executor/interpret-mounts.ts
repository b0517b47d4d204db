import { posix } from 'node:path';
import {
  type MountFields,
  type Origin,
  type Place,
  resolveMount,
  type RunMount,
} from '../src/dockerfile/index.ts';
import { BuildError } from '../src/support/index.ts';
import type { MountOperation } from './steps.ts';

/** What the mounts of a RUN have to know of it. */
export interface MountScope {
  readonly place: Place;
  readonly expand: (word: string) => string;
  readonly workingDirectory: string;
  /** What a mount is from; undefined when it says nothing. */
  readonly originOf: (fields: MountFields) => Origin | undefined;
}

/**
 * The mounts of a RUN with their defaults (Dockerfile reference, "RUN --mount"; BuildKit's `convert_runmount.go` where that
 * is silent). Of several with one target the last one counts.
 *
 * @throws BuildError `E_DOCKERFILE_SYNTAX`.
 */
export function interpretMounts(all: readonly MountFields[], scope: MountScope): MountOperation[] {
  let agents = 0;
  const mounts = all.map((fields) => {
    const mount = resolveMount(fields, scope.expand, scope.place);
    const agent = `/run/buildkit/ssh_agent.${mount.type === 'ssh' ? agents++ : 0}`;
    return operationOf(mount, agent, scope.originOf(fields), scope);
  });
  return mounts.filter(
    ({ target }, index) =>
      target === undefined || mounts.findLastIndex((other) => other.target === target) === index,
  );
}

function operationOf(
  mount: RunMount,
  agent: string,
  from: Origin | undefined,
  scope: MountScope,
): MountOperation {
  const { readOnly, size, sharing, required, env, mode, uid, gid } = mount;
  const owner = { mode, uid, gid };
  const source = posix.join('/', mount.source ?? '').replace(/(?<=.)\/$/, '');
  const at = (target: string): string => targetOf(target, scope);
  switch (mount.type) {
    case 'bind':
      return { type: 'bind', target: at(mount.target ?? ''), from, source, readOnly };
    case 'cache': {
      const target = at(mount.target ?? '');
      const id = text(mount.id) ?? cleaned(mount.target ?? '');
      // With a source the directory is that one, whose owner and mode are its own.
      const made = source === '/' ? owner : { mode: undefined, uid: undefined, gid: undefined };
      return { type: 'cache', target, id, sharing, from, source, readOnly, ...made };
    }
    case 'tmpfs':
      return { type: 'tmpfs', target: at(mount.target ?? ''), size: size === 0 ? undefined : size };
    case 'secret': {
      const id = text(mount.source) ?? text(mount.id) ?? posix.basename(mount.target ?? '');
      const file =
        text(mount.target) ?? (env === undefined ? `/run/secrets/${posix.basename(id)}` : undefined);
      const target = file === undefined ? undefined : at(file);
      return { type: 'secret', id, target, env: text(env), required, ...owner };
    }
    case 'ssh':
      return {
        type: 'ssh',
        id: text(mount.id) ?? 'default',
        target: at(text(mount.target) ?? agent),
        required,
        ...owner,
      };
  }
}

/** The text, unless it is empty, which says nothing. */
function text(value: string | undefined): string | undefined {
  return value === '' ? undefined : value;
}

/** As Go's path.Clean, which BuildKit names caches by. */
function cleaned(path: string): string {
  return posix.normalize(path).replace(/(?<=.)\/$/, '');
}

function targetOf(target: string, { workingDirectory, place }: MountScope): string {
  const path = posix.resolve('/', workingDirectory, target);
  if (path !== '/') return path;
  throw new BuildError('RUN --mount cannot take the place of the whole root file system', {
    code: 'E_DOCKERFILE_SYNTAX',
    where: `${place.file}:${place.line}`,
    subject: '--mount',
    remedy: 'Add target=/PATH.',
  });
}
