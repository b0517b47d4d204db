import { setXattr } from '../os/index.ts';
import { EnvironmentError, systemErrorCode } from '../support/index.ts';
import { opaqueAttribute, type OverlayMark, overlayMarks, writtenOverlayMarks } from './xattrs.ts';

/** Marks opaque directories of one unpacked layer, for as many kinds of overlay mounts as the file system lets it. */
export class OpaqueMarks {
  readonly #marks = new Set<OverlayMark>(writtenOverlayMarks());
  #isUsed = false;

  /** Which of overlayfs' attributes mark every opaque directory: all, where there is none. */
  get kept(): readonly OverlayMark[] {
    return this.#isUsed ? [...this.#marks] : overlayMarks;
  }

  /** @throws EnvironmentError `E_FILE_SYSTEM` when the file system keeps none of the attributes that this process may set. */
  mark(directory: Buffer): void {
    this.#isUsed = true;
    for (const mark of this.#marks)
      try {
        setXattr(directory, opaqueAttribute(mark), Buffer.from('y'));
      } catch (error) {
        if (mark !== 'user' || systemErrorCode(error) !== 'EOPNOTSUPP') throw error;
        // The layer then serves root's own builds alone.
        if (!this.#marks.delete(mark) || this.#marks.size === 0) throw noUserAttributes(error);
      }
  }
}

function noUserAttributes(cause: unknown): EnvironmentError {
  return new EnvironmentError('the file system keeps no attributes of users (user.*)', {
    code: 'E_FILE_SYSTEM',
    cause,
    remedy:
      'Without root of the machine a volume must lie on ext4, XFS or Btrfs, or on tmpfs of Linux 6.6 or later.',
  });
}
