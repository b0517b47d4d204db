export { parseCommandLine } from './command-line.ts';
export * from './flags.ts';
export { addKanikoFlags, type KanikoFlag, kanikoNotes, kanikoTable, respell } from './kaniko-flags.ts';
export { addConfiguration } from './print-configuration.ts';
export * from './registry-flags.ts';
export * from './values.ts';
