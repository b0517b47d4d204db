import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { configurationSchema } from '../warmer/daemon/configuration-schema.ts';

/** npm run schema: writes deploy/warmer.schema.json from the code that validates warmer.yaml. */
await writeFile(
  join(import.meta.dirname, '../deploy/warmer.schema.json'),
  `${JSON.stringify(configurationSchema, undefined, 2)}\n`,
);
