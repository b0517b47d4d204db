export { type RegistryOptions, RegistryClient } from './client.ts';
export { RegistryError } from './errors.ts';
export { type FetchedImage, fetchImage } from './fetch-image.ts';
export { Repository } from './repository.ts';
export type { UploadOptions, UploadOutcome } from './upload.ts';
