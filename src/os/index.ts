export * from './libc.ts';
export * from './sync.ts';
export * from './safe-path.ts';
export * from './tree-reader.ts';
export * from './mount-points.ts';
export * from './processes.ts';
export * from './file-leases.ts';
export * from './name-services.ts';
