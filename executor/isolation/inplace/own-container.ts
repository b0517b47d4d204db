import { existsSync, lstatSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { childPath, type Territory } from '../../../src/layer/index.ts';
import { EnvironmentError, systemErrorCode } from '../../../src/support/index.ts';
import { ownCapabilities } from '../capabilities.ts';

/** The inode number of the first pid namespace of a machine (PROC_PID_INIT_INO of the kernel). */
const firstPidNamespace = 'pid:[4026531836]';

/** Where things are that nobody means to keep, and what container engines leave in the root. */
const negligible = new Set(['tmp', 'var/tmp', '.dockerenv', 'run/.containerenv']);

/** What is known of the place that a build in place would take over. */
export interface ContainerFacts {
  /** Files that run in this process and lie outside Kiln's own directory. */
  readonly foreignPrograms: readonly string[];
  /** Whether this process sees the processes of the whole machine. */
  readonly seesMachine: boolean;
  /** Whether this process has rights that only a machine's root has. */
  readonly hasMachineRights: boolean;
  /** What Kiln's own directory says that the image has beside it; undefined when it says nothing. */
  readonly imageFiles: readonly string[] | undefined;
  /** Whether an earlier build in this container took it over: what is in its root is what that one left. */
  readonly isTaken: boolean;
}

const takenName = 'taken';

/** Remembers, in the container itself, that its root is a build's from now on. @param work where builds keep their files. */
export function markTaken(work: string): void {
  writeFileSync(join(work, takenName), '');
}

/** @param home Kiln's own directory, @param work where builds keep their files in it. */
export function readContainerFacts(home: string, work: string): ContainerFacts {
  return {
    isTaken: existsSync(join(work, takenName)),
    foreignPrograms: mappedFiles().filter((path) => !path.startsWith(`${home}/`)),
    seesMachine: readlinkSync('/proc/self/ns/pid') === firstPidNamespace,
    // Of root on a machine, and of privileged containers.
    hasMachineRights: ownCapabilities('bounding').has('SYS_MODULE'),
    imageFiles: readMarker(home),
  };
}

function mappedFiles(): string[] {
  const lines = readFileSync('/proc/self/maps', 'utf8').split('\n');
  const paths = lines.map((line) => /^\S+ \S+ \S+ \S+ [1-9][0-9]*\s+(\/.*)$/.exec(line)?.[1]);
  return [...new Set(paths.filter((path) => path !== undefined && !path.startsWith('/dev/')))] as string[];
}

function readMarker(home: string): string[] | undefined {
  try {
    const marker = JSON.parse(readFileSync(join(home, 'kiln.json'), 'utf8')) as { files?: unknown };
    return Array.isArray(marker.files) ? marker.files.map(String) : undefined;
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT' || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/**
 * Makes sure that the root file system may be taken over: a build in place removes everything in it. It must be that of a
 * container which was made for Kiln and holds nothing else; so whoever tries it on a machine of their own, or in another
 * container that Kiln was copied into, loses nothing.
 *
 * @param force takes over whatever it is, so long as Kiln does not remove itself.
 * @throws EnvironmentError `E_INPLACE_HOST`, `E_INPLACE_FOREIGN`.
 */
export function requireOwnContainer(
  facts: ContainerFacts,
  territory: Territory,
  options: { readonly home: string; readonly force: boolean },
): void {
  const { home, force } = options;
  const [program] = facts.foreignPrograms;
  if (program !== undefined)
    throw refused(
      `Kiln runs from ${program}, not from ${home}, and a build in place would remove what it runs from`,
      "Use Kiln's own image, or build with --isolation overlay.",
    );
  if (force) return;
  if (facts.seesMachine || facts.hasMachineRights)
    throw refused(
      facts.seesMachine
        ? 'this is no container: the processes of the whole machine are here'
        : 'this is no ordinary container: it has the rights of a machine (CAP_SYS_MODULE)',
      'Build with --isolation overlay here; --force takes over the root file system nevertheless.',
    );
  if (facts.imageFiles === undefined)
    throw refused(
      `${home}/kiln.json, which an image of Kiln has, is missing or damaged`,
      "Use Kiln's own image; --force takes over the root file system nevertheless.",
    );
  const foreign = facts.isTaken ? [] : foreignFiles(territory, facts.imageFiles);
  if (foreign.length === 0) return;
  throw new EnvironmentError(
    `this container holds files that are not Kiln's, and a build in place would remove them: ${foreign.join(', ')}`,
    {
      code: 'E_INPLACE_FOREIGN',
      remedy: `Use Kiln's own image and mount what a build needs, or keep it below ${home}; --force removes them.`,
    },
  );
}

function refused(reason: string, remedy: string): EnvironmentError {
  return new EnvironmentError(`building in place is refused: ${reason}`, { code: 'E_INPLACE_HOST', remedy });
}

const enough = 3;

/** The first files that neither the image has nor anybody would call negligible. */
function foreignFiles(territory: Territory, imageFiles: readonly string[]): string[] {
  const known = new Set([...negligible, ...imageFiles.map((path) => path.replace(/^\/+/, ''))]);
  const found: string[] = [];
  const visit = (directory: string): void => {
    for (const name of readdirSync(territory.bytes(directory), { encoding: 'latin1' })) {
      const path = childPath(directory, name);
      if (found.length >= enough) return;
      if (known.has(path) || territory.isExcluded(path)) continue;
      if (lstatSync(territory.bytes(path)).isDirectory()) visit(path);
      else found.push(`/${Buffer.from(path, 'latin1').toString()}`);
    }
  };
  visit('');
  return found;
}
