import type { IndexDatabase } from './index-db.ts';
import type { LayerDirectory } from './layers.ts';
import type { OciLayout } from './oci-layout.ts';

/** The rooms of a volume, as the functions here need them. */
export interface VolumeParts {
  readonly directory: string;
  readonly layout: OciLayout;
  readonly layers: LayerDirectory;
  readonly index: IndexDatabase;
}
