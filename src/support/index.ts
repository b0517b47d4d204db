export * from './canonical-json.ts';
export * from './errors.ts';
export * from './events.ts';
export * from './format.ts';
export * from './main.ts';
export { LineSplitter, plainReporter } from './report-plain.ts';
export * from './reporters.ts';
export * from './single-flight.ts';
export * from './temporary.ts';
