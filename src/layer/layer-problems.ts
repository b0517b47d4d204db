import { BuildError, systemErrorCode } from '../support/index.ts';

/**
 * What of a layer could not be made for lack of a capability. The layer itself stays as it is, so the image is right all
 * the same; but steps do not see these files as they are.
 */
export class LayerProblems {
  /** Device nodes, which need CAP_MKNOD. */
  readonly nodes: string[] = [];
  /** Files with capabilities, which need CAP_SETFCAP. */
  readonly attributes: string[] = [];

  /**
   * Tries something that may not be permitted.
   *
   * @param path in the tree (latin1).
   * @returns false when it was not permitted.
   */
  attempt(kind: 'node' | 'attribute', path: string, work: () => void): boolean {
    try {
      work();
      return true;
    } catch (error) {
      if (systemErrorCode(error) !== 'EPERM') throw error;
      (kind === 'node' ? this.nodes : this.attributes).push(`/${Buffer.from(path, 'latin1').toString()}`);
      return false;
    }
  }
}

/** The error for a device node of an archive that would be a part of the layer, where none can be made. @param path latin1. */
export function deviceRefused(path: string): BuildError {
  return new BuildError(
    `the archive holds the device node ${Buffer.from(path, 'latin1').toString()}, which a user namespace may not make`,
    {
      code: 'E_DEVICE_NODE',
      remedy: 'Leave it out of the archive, or build as root of the machine.',
    },
  );
}
