export { expandHeredoc, expandWord, expandWords, ExpansionError, type Lookup } from './expand.ts';
export { nearestWord } from './fields.ts';
export { parseDockerfile, parseTriggers } from './parse.ts';
export type * from './types.ts';
