import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { type Manifest, parseManifests } from './kubernetes.ts';

const execute = promisify(execFile);

/** Why `kubectl kustomize` cannot be used here; undefined when it can. Versions before 5 do not know all fields. */
export async function kustomizeObstacle(): Promise<string | undefined> {
  try {
    const { stdout } = await execute('kubectl', ['version', '--client', '--output=json']);
    const { kustomizeVersion = 'none' } = JSON.parse(stdout) as { kustomizeVersion?: string };
    const major = Number(/^v([0-9]+)\./.exec(kustomizeVersion)?.[1] ?? 0);
    return major >= 5 ? undefined : `kubectl has kustomize ${kustomizeVersion}, 5 is needed`;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT')
      return 'there is no kubectl, which Debian has too old';
    throw error;
  }
}

/** What `kubectl kustomize` makes of a directory. */
export async function kustomize(directory: string): Promise<Manifest[]> {
  const { stdout } = await execute('kubectl', ['kustomize', directory]);
  return parseManifests(stdout);
}
