import type { DiffID, LayerCompression } from '../oci/index.ts';

/** A layer on disk, in one of the forms in which it can be applied to a tree. Plain data that can be posted to a worker. */
export type LayerSource =
  | {
      /** Unpacked in overlayfs form. */
      readonly kind: 'directory';
      readonly diffID: DiffID;
      readonly path: string;
      /**
       * Paths in it (latin1, relative) of the opaque directories. They carry overlayfs' attribute, but only a process that
       * may mount can read that.
       */
      readonly opaque: readonly string[];
      /** Directories in it that are there only for what is in them; `''` is the root. */
      readonly implied: readonly string[];
    }
  | {
      readonly kind: 'archive';
      readonly diffID: DiffID;
      readonly file: string;
      readonly compression: LayerCompression;
    };
