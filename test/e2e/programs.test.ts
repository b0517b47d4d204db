import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import { openWorkshop } from '../support/workshop.ts';

const root = join(import.meta.dirname, '../..');

describe('the compiled programs', () => {
  before(() => {
    execFileSync(process.execPath, [join(root, 'scripts/build.ts')], { stdio: 'pipe' });
  });

  for (const program of ['executor', 'warmer'])
    test(`${program} shows its version and help, with examples and exit codes`, () => {
      const run = (...args: string[]): string =>
        execFileSync(join(root, 'bin', program), args, { encoding: 'utf8' });
      assert.match(run('--version'), /^[0-9]+\.[0-9]+\.[0-9]+\n$/);
      assert.match(run('--help'), /Examples:[\s\S]*Exit codes:/);
    });

  test('warm, build and list as their sources do', async () => {
    await using workshop = await openWorkshop();
    const run = (program: string, ...args: string[]): string => {
      const ended = spawnSync(join(root, 'bin', program), [...args, '--cache-dir', workshop.volume], {
        encoding: 'utf8',
      });
      assert.equal(ended.status, 0, ended.stderr);
      return ended.stdout + ended.stderr;
    };
    assert.match(run('warmer', '--image', workshop.base), /^pulled /m);
    const context = await workshop.context({
      Dockerfile: 'FROM %BASE%\nCOPY a /a\nRUN cat /a > /b\n',
      a: 'hello',
    });
    const image = `${workshop.registry.host}/compiled:1`;
    assert.match(run('executor', '--context', context, '--destination', image, '--cache'), /done in/);
    assert.match(run('executor', '--context', context, '--destination', image, '--cache'), /CACHED/);
    assert.match(run('warmer', 'ls'), /busybox:1 .* warm/);
  });
});
