export { decompress } from './decompress.ts';
export { extractTar, isTarArchive } from './extract.ts';
export type { Layer } from './layer.ts';
export { makeMergeable } from './mergeable.ts';
export { spaceError, unpackLayer, type CompressedFile, type UnpackResult } from './unpack.ts';
export { blobLayer, fileLayer, type LayerFacts, writeLayer, type WriteLayerRequest } from './write-layer.ts';
export { imageXattrs, type OverlayMark, ownOverlayMark } from './xattrs.ts';
export { unpackedTreeDigest } from './tree-digest.ts';
