export * from './libc.ts';
export * from './sync.ts';
export * from './safe-path.ts';
export * from './tree-reader.ts';
