import assert from 'node:assert/strict';
import { execFile, execFileSync, spawn, spawnSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { eventually } from '../support/daemon.ts';
import { serve } from '../support/http.ts';
import { ended, temporaryDirectory, writeFiles } from '../support/programs.ts';
import { freePort } from '../support/registry.ts';
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

  test('serve the status page of the daemon, with its files', async () => {
    await using scratch = await temporaryDirectory();
    const config = join(scratch.path, 'warmer.yaml');
    await writeFile(config, '{}');
    const port = await freePort();
    const args = ['daemon', '--config', config, '--cache-dir', join(scratch.path, 'volume')];
    const daemon = spawn(join(root, 'bin/warmer'), [...args, `--listen=127.0.0.1:${port}`], {
      stdio: 'pipe',
    });
    const end = ended(daemon);
    try {
      const get = async (path: string): Promise<string | undefined> => {
        const answer = await fetch(`http://127.0.0.1:${port}${path}`).catch(() => undefined);
        if (answer === undefined) {
          assert.equal(daemon.exitCode, null, 'it runs');
          return undefined;
        }
        assert.equal(answer.status, 200, path);
        return answer.text();
      };
      const page = await eventually(() => get('/'), 'the page');
      const files = [...page.matchAll(/(?:href|src)="(\/assets\/[^"]+)"/g)].map(([, path = '']) => path);
      assert.equal(files.length, 3);
      for (const file of files) assert.ok(((await get(file)) ?? '').length > 0, file);
    } finally {
      daemon.kill();
      assert.equal((await end).code, 0);
    }
  });

  test('load the libraries of clouds when a registry of theirs wants to know who we are', async () => {
    // Whatever is asked of them arrives here.
    await using server = await serve((request, response) => {
      if (request.url?.includes('/manifests/') === true)
        response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' });
      response.end();
    });
    await using scratch = await temporaryDirectory();
    for (const [host, environment, note] of [
      [
        '123456789012.dkr.ecr.eu-west-1.amazonaws.com',
        {
          AWS_ACCESS_KEY_ID: 'key',
          AWS_SECRET_ACCESS_KEY: 'secret',
          AWS_ENDPOINT_URL_ECR: 'http://127.0.0.1:1',
          AWS_MAX_ATTEMPTS: '1',
        },
        /Amazon ECR gave none: .*ECONNREFUSED/,
      ],
      ['gcr.io', { GOOGLE_APPLICATION_CREDENTIALS: '/nowhere.json' }, /Google gave none: .*nowhere\.json/],
      [
        'team.azurecr.io',
        { AZURE_FEDERATED_TOKEN_FILE: '/nowhere', AZURE_TENANT_ID: 'tenant', AZURE_CLIENT_ID: 'client' },
        /Azure gave none: .*\/nowhere/,
      ],
    ] as const) {
      const context = await writeFiles(`${scratch.path}/${host}`, {
        Dockerfile: `FROM ${host}/team/app:1\n`,
      });
      const { stderr } = await promisify(execFile)(
        join(root, 'bin/executor'),
        ['--context', context, '--no-push', '--cache-dir', `${scratch.path}/volume`, '--insecure-pull'],
        { env: { PATH: process.env.PATH, HTTP_PROXY: `http://${server.host}`, ...environment } },
      ).catch((error: unknown) => error as { stderr: string });
      assert.match(stderr, note);
    }
  });
});
