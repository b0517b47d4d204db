export { writeArchive } from './archive.ts';
export { writeLayout } from './layout.ts';
export { destinationWithDigest, pushImage } from './push.ts';
