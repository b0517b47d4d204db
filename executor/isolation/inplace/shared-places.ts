import {
  closeSync,
  constants,
  type Dirent,
  lstatSync,
  openSync,
  readdirSync,
  rmdirSync,
  statfsSync,
  unlinkSync,
} from 'node:fs';
import { join } from 'node:path';
import {
  asUser,
  listSysvObjects,
  removeSysvObject,
  setNotDumpable,
  type SysvObject,
  takeFileLease,
} from '../../../src/os/index.ts';
import { systemErrorCode } from '../../../src/support/index.ts';

/** Types of file systems (statfs(2)) whose content lives as long as the container. Anything else there is a volume. */
const tmpfs = 0x01021994;
const mqueue = 0x19800202;

/** Where steps can leave what is no part of the image, each a mount of its own. */
const places = ['/dev', '/dev/shm', '/dev/mqueue'];

/**
 * What is in the container's places for devices, shared memory and message queues, and the System V objects of its IPC
 * namespace, at one moment. With overlay each step has its own; in place all share the container's, so what a step left in
 * them is removed when it has ended.
 *
 * The other containers of a pod share most of it, and a service beside the build may make something while a step runs. So only
 * what came during the step and what nobody uses any more is removed: the step's own processes have ended by then.
 */
export class SharedPlaces {
  readonly #files: ReadonlyMap<string, string>;
  readonly #objects: ReadonlySet<string>;
  readonly #places: readonly string[];

  /** @param options `places`: directories instead of those of a container, in tests. */
  constructor(options: { readonly places?: readonly string[] } = {}) {
    this.#places = options.places ?? places;
    this.#files = new Map(this.#list().map((path) => [path, identity(path)]));
    this.#objects = new Set(listSysvObjects().map(objectName));
  }

  /** Paths, what lies in a directory before the directory. */
  #list(): string[] {
    return this.#places.filter(isOfContainer).flatMap((place) => filesBelow(place));
  }

  /** Removes what has come since, apart from what others have open. What cannot be removed stays. */
  removeNew(): void {
    let asOthers = false;
    for (const path of this.#list())
      if (this.#files.get(path) !== identity(path)) asOthers = removeFile(path) || asOthers;
    for (const object of listSysvObjects()) {
      if (this.#objects.has(objectName(object)) || object.isAttached) continue;
      asOthers = true;
      removeObject(object);
    }
    // To have been another user may have changed it.
    if (asOthers) setNotDumpable();
  }
}

function objectName({ kind, id }: SysvObject): string {
  return `${kind} ${id}`;
}

function isOfContainer(place: string): boolean {
  try {
    return [tmpfs, mqueue].includes(statfsSync(place).type);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return false;
    throw error;
  }
}

/** What is below a directory on the same file system. */
function filesBelow(directory: string, device = deviceOf(directory)): string[] {
  return entriesOf(directory).flatMap((entry) => {
    const path = join(directory, entry.name);
    if (deviceOf(path) !== device) return [];
    return entry.isDirectory() ? [...filesBelow(path, device), path] : [path];
  });
}

function entriesOf(directory: string): Dirent[] {
  try {
    return readdirSync(directory, { withFileTypes: true });
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return [];
    throw error;
  }
}

function deviceOf(path: string): number | undefined {
  return lstatSync(path, { throwIfNoEntry: false })?.dev;
}

/** What tells a file from another that takes its name. */
function identity(path: string): string {
  const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return stat === undefined ? '' : `${stat.dev} ${stat.ino} ${stat.birthtimeNs}`;
}

/** @returns whether this thread was another user meanwhile. */
function removeFile(path: string): boolean {
  try {
    const stat = lstatSync(path);
    if (stat.isDirectory()) rmdirSync(path);
    else if (!stat.isFile() || !isOpenElsewhere(path, stat.uid)) unlinkSync(path);
    return stat.isFile();
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT' || code === 'ENOTEMPTY' || code === 'EPERM' || code === 'EACCES') return false;
    throw error;
  }
}

/** Whether some process of any container has a file open or mapped; then the kernel refuses a lease of it. */
function isOpenElsewhere(path: string, owner: number): boolean {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    return !asUser(owner, () => takeFileLease(fd, 'write'));
  } finally {
    closeSync(fd);
  }
}

/** The kernel lets the owner remove it, and who has SYS_ADMIN. */
function removeObject(object: SysvObject): void {
  try {
    if (object.isOwn()) asUser(object.owner, () => removeSysvObject(object));
  } catch (error) {
    // Its owner changed it, or this process may not become them.
    if (systemErrorCode(error) !== 'EPERM' && systemErrorCode(error) !== 'EACCES') throw error;
  }
}
