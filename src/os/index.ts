export * from './byte-path.ts';
export * from './capabilities.ts';
export * from './libc.ts';
export * from './sync.ts';
export * from './safe-path.ts';
