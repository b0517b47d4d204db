export {
  type CredentialHelperName,
  dockerConfigFiles,
  parseCredentialHelpers,
} from './auth/default-keychain.ts';
export { azureCredential, mayBeSomebodyToAzure } from './auth/identities/azure.ts';
export { googleToken, mayBeSomebodyToGoogle } from './auth/identities/google.ts';
export { LoginFile } from './auth/login-file.ts';
export { RegistryClient, type RepositoryName } from './client.ts';
export { RegistryError } from './errors.ts';
export { authorizationOf, type HostTrust, type WebAnswer, type WebRequest } from './http/web.ts';
export { type FetchedImage, fetchImage } from './fetch-image.ts';
export type { FetchedManifest, ImageSource } from './image-source.ts';
export { parseMirror } from './mirrors/mirror.ts';
export type { RegistryOptions, RegistrySettings } from './options.ts';
export { Repository } from './repository.ts';
export { Throttle } from './transfer/throttle.ts';
export type { OpenBlob, UploadOptions, UploadOutcome } from './transfer/upload.ts';
