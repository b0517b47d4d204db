import { lchownSync, lstatSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { hasId, hasSingleId, idMap, type Owner } from '../os/index.ts';
import { EnvironmentError, randomName, systemErrorCode } from '../support/index.ts';

/**
 * Whose ids a volume's files have. Unpacked layers belong to whoever their images say, but in a user namespace the ids
 * on disk are others, and the same volume may be seen through one, through another or through none. Hence `owners/`:
 * empty files, each belonging to the user and group it is named by. Where they appear so, all files do.
 */
const directoryName = 'owners';
const singleIdName = 'single-id';

/** Ids whose files tell: root, the first of the others, and the last that every map of usual size has. */
const witnesses = [0, 1, 65535];

/**
 * Writes the witnesses into a volume that has none and is to be written by this process.
 * Several processes may do so at once: one of them wins.
 */
export function markOwners(volume: string): void {
  const target = join(volume, directoryName);
  if (lstatSync(target, { throwIfNoEntry: false }) !== undefined) return;
  const temporary = join(volume, 'ingest', randomName('owners-'));
  mkdirSync(temporary, { mode: 0o755 });
  try {
    if (hasSingleId()) writeFileSync(join(temporary, singleIdName), '');
    else
      for (const id of witnesses)
        if (hasId(idMap('uid'), id) && hasId(idMap('gid'), id)) {
          writeFileSync(join(temporary, String(id)), '');
          lchownSync(join(temporary, String(id)), id, id);
        }
    renameSync(temporary, target);
  } catch (error) {
    const code = systemErrorCode(error);
    if (code !== 'EEXIST' && code !== 'ENOTEMPTY') throw error;
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

/**
 * Makes sure that the owners of a volume's files are who they should be, as this process sees them.
 *
 * @throws EnvironmentError `E_VOLUME_OWNERS`.
 */
export function checkOwners(volume: string): void {
  const single = ownerIn(volume, join(directoryName, singleIdName)) !== undefined;
  const marked = ownerIn(volume, directoryName) !== undefined;
  if (marked && single !== hasSingleId())
    throw refused(
      volume,
      single
        ? 'was unpacked in a user namespace with a single id'
        : 'was unpacked with all ids, and this user namespace has only one',
    );
  // Of a volume without witnesses only root's files are known.
  const expected =
    marked && !single ? witnesses.map((id) => [join(directoryName, String(id)), id] as const) : [];
  for (const [name, id] of [...expected, ['layers', 0] as const]) {
    const found = ownerIn(volume, name);
    if (found !== undefined && (found.uid !== id || (name !== 'layers' && found.gid !== id)))
      throw foreign(volume, { uid: id, gid: id }, found);
  }
}

function ownerIn(volume: string, name: string): Owner | undefined {
  return lstatSync(join(volume, name), { throwIfNoEntry: false });
}

function foreign(volume: string, expected: Owner, found: Owner): EnvironmentError {
  const name = ({ uid, gid }: Owner): string => `${uid}:${gid}`;
  return refused(
    volume,
    `was unpacked with other ids: what belongs to ${name(expected)} there belongs to ${name(found)} here`,
    found.uid === expected.uid
      ? 'fsGroup must not be set for a volume of unpacked layers; empty it.'
      : undefined,
  );
}

const usualRemedy =
  'Give another directory with --cache-dir; in a pod with hostUsers: false the volume must be mounted with mapped ids, as kubelet does.';

function refused(volume: string, why: string, remedy = usualRemedy): EnvironmentError {
  return new EnvironmentError(`the cache volume ${why}`, { code: 'E_VOLUME_OWNERS', where: volume, remedy });
}
