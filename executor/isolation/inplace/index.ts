export { InplaceIsolation, type InplaceOptions } from './inplace.ts';
