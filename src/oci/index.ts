export * from './blob-store.ts';
export * from './decode.ts';
export * from './digest.ts';
export * from './media-types.ts';
export * from './platform.ts';
export * from './reference.ts';
export * from './reference-pattern.ts';
export type * from './types.ts';
