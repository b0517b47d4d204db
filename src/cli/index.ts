export { parseCommandLine } from './command-line.ts';
export * from './flags.ts';
export * from './registry-flags.ts';
export * from './values.ts';
