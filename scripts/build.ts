import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { bundlePrograms } from './bundle.ts';

/** npm run build: bundles both programs into dist/, with a place for what Node compiles of them. */
const target = join(import.meta.dirname, '../dist');
await bundlePrograms(target);
await mkdir(join(target, 'compiled'));
