export { applyLayer } from './apply-layer.ts';
export { makeAttributeLayer, type UnpackedTree } from './attribute-layer.ts';
export { captureLayer, type CapturedLayer, compressCaptured } from './capture.ts';
export { childPath, namesIn, removeTree } from './clear-tree.ts';
export { decompress } from './decompress.ts';
export { waitForLaterChanges } from './clock.ts';
export { clearUnchanged } from './earlier.ts';
export { opaqueName, whiteoutPrefix } from './entries.ts';
export { type ExtractOptions, extractStream, extractTar, isTarArchive } from './extract.ts';
export type { Layer } from './layer.ts';
export { LayerProblems } from './layer-problems.ts';
export type { LayerSource } from './layer-source.ts';
export { makeMergeable } from './mergeable.ts';
export { recompressLayer } from './recompress.ts';
export { type Relocation, Territory, type TerritoryOptions } from './territory.ts';
export { TreeChanges } from './tree-changes.ts';
export { TreeState } from './tree-state.ts';
export { type LayerVisitor, scanLayer } from './scan.ts';
export type { TarEntry } from './tar-reader.ts';
export { spaceError, unpackLayer, type CompressedFile, type UnpackResult } from './unpack.ts';
export { unpackedTreeDigest } from './tree-digest.ts';
export {
  blobLayer,
  type CompressedOutput,
  type Compression,
  fileLayer,
  type LayerFacts,
  writeLayer,
  type WriteLayerRequest,
} from './write-layer.ts';
export { imageXattrs, isImageXattr, type OverlayMark, ownOverlayMark } from './xattrs.ts';
