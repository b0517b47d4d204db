export * from './libc.ts';
export * from './sync.ts';
