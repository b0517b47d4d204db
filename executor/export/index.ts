export { exportOutput } from './outputs.ts';
