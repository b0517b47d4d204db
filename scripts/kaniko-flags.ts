import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { executorFlags } from '../executor/kaniko-flags.ts';
import { kanikoTable } from '../src/cli/index.ts';
import { warmerFlags } from '../warmer/kaniko-flags.ts';

/** docs/kaniko.md with its tables as the code has them. */
export function withTables(page: string): string {
  const tables = { executor: executorFlags, warmer: warmerFlags };
  return page.replace(
    /(<!-- flags of the (executor|warmer) -->\n)[^]*?(<!-- end -->)/g,
    (_all, begin: string, program: 'executor' | 'warmer', end: string) =>
      `${begin}\n${kanikoTable(tables[program])}\n\n${end}`,
  );
}

/** npm run flags: writes the tables of flags in docs/kaniko.md from the code. */
if (import.meta.main) {
  const path = join(import.meta.dirname, '../docs/kaniko.md');
  await writeFile(path, withTables(await readFile(path, 'utf8')));
}
