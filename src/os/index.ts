export * from './enter-user-namespace.ts';
export * from './id-map.ts';
export * from './libc.ts';
export * from './owner.ts';
export * from './safe-path.ts';
export * from './subordinate-ids.ts';
export * from './sync.ts';
export * from './user-namespace-obstacles.ts';
