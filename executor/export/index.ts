export { writeDigestFiles } from './digest-files.ts';
export { exportOutput, pushTo } from './outputs.ts';
