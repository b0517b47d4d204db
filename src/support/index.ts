export * from './canonical-json.ts';
export * from './errors.ts';
export * from './events.ts';
export * from './single-flight.ts';
export * from './temporary.ts';
