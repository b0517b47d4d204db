import { join } from 'node:path';
import { bundlePrograms } from './bundle.ts';

/** npm run build: bundles both programs into dist/. */
await bundlePrograms(join(import.meta.dirname, '../dist'));
