import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chownSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { startGitServer, TestRepository } from '../support/git-server.ts';
import { type LocalBuild, type LocalBuilds, openLocalBuilds } from '../support/local-builds.ts';
import { kiln, stepsThat, writeFiles } from '../support/programs.ts';
import { openWorkshop } from '../support/workshop.ts';

/*
 * `--build-context`, and a Dockerfile from standard input.
 */

let builds: LocalBuilds;
before(async () => {
  builds = await openLocalBuilds();
});
after(() => builds[Symbol.asyncDispose]());

async function succeed(dockerfile: string, ...args: string[]): Promise<LocalBuild> {
  const built = await builds.build(dockerfile, { args });
  assert.equal(built.code, 0, built.stderr);
  return built;
}
const named = (name: string, source: string): string[] => ['--build-context', `${name}=${source}`];

describe('a named context', () => {
  test('that is a directory is copied from, as the build context is', async () => {
    const directory = await builds.context({ 'sub/file': 'one', ignored: '', '.dockerignore': 'ignored\n' });
    chownSync(join(directory, 'sub/file'), 12, 34);
    const dockerfile = 'FROM scratch\nCOPY --from=files . /to/\nCOPY --from=files --parents sub/* /deep/\n';
    const built = await succeed(dockerfile, ...named('files', directory));
    assert.deepEqual(built.tree('%P %U:%G'), [
      'deep 0:0',
      'deep/sub 0:0',
      'deep/sub/file 0:0',
      'to 0:0',
      'to/.dockerignore 0:0',
      'to/sub 0:0',
      'to/sub/file 0:0',
    ]);
    assert.equal(stepsThat('cached', await succeed(dockerfile, ...named('files', directory))).length, 2);
    writeFileSync(join(directory, 'sub/file'), 'two');
    const changed = await succeed(dockerfile, ...named('files', `dir://${directory}`));
    assert.equal(stepsThat('ran', changed).length, 2);
    assert.equal(readFileSync(join(changed.root(), 'to/sub/file'), 'utf8'), 'two');
    const missing = await builds.build('FROM scratch\n\nCOPY --from=files nothing /\n', {
      args: named('files', directory),
    });
    assert.match(missing.messages, /Dockerfile:3: "nothing" is not in the context files/);
  });

  test('that is a directory is what a stage starts from, and stands in the place of a stage', async () => {
    const directory = await builds.context({ 'etc/from-context': 'x' });
    const base = await succeed('FROM base\nCOPY . /context\n', ...named('base', directory));
    assert.deepEqual(base.tree('%P'), ['context', 'context/.keep', 'etc', 'etc/from-context']);
    const dockerfile =
      'FROM nowhere.invalid/x AS build\nRUN false\nFROM scratch\nCOPY --from=build /etc /etc\n';
    const stage = await succeed(dockerfile, ...named('build', directory));
    assert.deepEqual(stage.tree('%P'), ['etc', 'etc/from-context']);
    const target = await succeed(dockerfile, ...named('build', directory), '--target', 'build');
    assert.deepEqual(target.tree('%P'), ['etc', 'etc/from-context']);
  });

  test('that is an OCI layout is an image, its configuration included', async () => {
    const made = await builds.build('FROM scratch\nCOPY <<EOF /made\nx\nEOF\nENV A=1\n', {
      args: ['--oci-layout-path', join(builds.directory, 'made')],
    });
    assert.equal(made.code, 0, made.stderr);
    const layout = `oci-layout://${join(builds.directory, 'made')}`;
    const dockerfile = 'FROM docker.io/library/app AS one\nCOPY --from=app /made /copied-$A\nWORKDIR /w$A\n';
    for (const source of [layout, `${layout}:latest`]) {
      const built = await succeed(dockerfile, ...named('app', source));
      assert.deepEqual(built.tree('%P'), ['copied-1', 'made', 'w1']);
    }
    const { manifests } = JSON.parse(readFileSync(join(builds.directory, 'made/index.json'), 'utf8')) as {
      manifests: { digest: string }[];
    };
    await succeed(dockerfile, ...named('app', `${layout}@${manifests[0]?.digest ?? ''}`));
    const other = await builds.build(dockerfile, { args: named('app', `${layout}:other`) });
    assert.match(other.messages, /Dockerfile:1: the layout .*has no image other/);
  });

  test('that is another image takes the place of every spelling of its name', async () => {
    await using workshop = await openWorkshop();
    const dockerfile = 'FROM debian:latest\nRUN test -e /bin/busybox\nCOPY --from=debian /bin/busybox /b\n';
    const built = await builds.build(dockerfile, {
      args: named('docker.io/library/debian', `docker-image://${workshop.base}`),
    });
    assert.equal(built.code, 0, built.stderr);
    const empty = await succeed('FROM debian\nCOPY . /\n', ...named('debian', 'docker-image://scratch'));
    assert.deepEqual(empty.tree('%P'), ['.keep']);
  });

  test('that is a git repository is its tree', async () => {
    const served = join(builds.directory, 'served');
    mkdirSync(served);
    const repository = new TestRepository(served, 'context');
    repository.commit({ 'src/main': '', other: '' });
    await using server = await startGitServer(served);
    const source = `${server.url('context')}#main:src`;
    const built = await succeed('FROM scratch\nCOPY --from=code . /\n', ...named('code', source));
    assert.deepEqual(built.tree('%P'), ['main']);
  });

  test('that nothing needs is not opened, and one that cannot be understood is refused', async () => {
    await succeed('FROM scratch\nCOPY . /\n', ...named('unused', '/nonexistent'));
    for (const [value, says] of [
      ['nothing', /--build-context nothing cannot be understood/],
      ['a=', /cannot be understood/],
      ['a=-', /cannot be read from standard input/],
      ['a=docker-image://UPPER', /invalid image reference/],
    ] as const) {
      const built = await builds.build('FROM scratch\n', { args: ['--build-context', value] });
      assert.equal(built.code, 2, value);
      assert.match(built.messages, says);
    }
    const twice = await builds.build('FROM scratch\n', { args: [...named('a', '.'), ...named('A', '.')] });
    assert.match(twice.messages, /given twice/);
  });
});

describe('a Dockerfile from standard input', () => {
  test('builds in the context, whose .dockerignore counts', async () => {
    const context = await builds.context({ file: 'x', ignored: '', '.dockerignore': 'ignored\n' });
    const layout = join(builds.directory, 'from-input');
    const args = ['-c', context, '-f', '-', '--cache-dir', join(builds.directory, 'volume')];
    const input = 'FROM scratch\nCOPY . /\n';
    const ended = await kiln('executor', [...args, '--oci-layout-path', layout], { input });
    assert.equal(ended.code, 0, ended.stderr);
    const list = execFileSync('umoci', ['unpack', '--image', `${layout}:latest`, `${layout}-bundle`]);
    assert.ok(list);
    const found = execFileSync('ls', ['-A', `${layout}-bundle/rootfs`], { encoding: 'utf8' });
    assert.deepEqual(found.trim().split('\n'), ['.dockerignore', 'file']);
  });

  test('is named in errors, with its line', async () => {
    const args = ['-c', builds.directory, '-f', '-', '--no-push'];
    const ended = await kiln('executor', args, { input: 'FROM scratch\nCOPPY a b\n' });
    assert.equal(ended.code, 1);
    assert.match(ended.stderr, /^error: Dockerfile:2: unknown instruction COPPY.*\n {4}2 \| COPPY a b/m);
    const checked = await kiln('executor', ['check', '-f', '-'], { input: 'FROM scratch\nMAINTAINER me\n' });
    assert.match(checked.stdout, /^Dockerfile:2: MaintainerDeprecated/);
  });
});

test('a Dockerfile has its own .dockerignore beside it', async () => {
  const context = await writeFiles(join(builds.directory, 'own-ignore'), {
    'a.Dockerfile': 'FROM scratch\nCOPY . /\n',
    'a.Dockerfile.dockerignore': '*\n!kept\n',
    '.dockerignore': 'kept\n',
    kept: '',
    left: '',
  });
  const layout = join(builds.directory, 'own-ignore-image');
  const args = ['-c', context, '-f', 'a.Dockerfile', '--cache-dir', join(builds.directory, 'volume')];
  const ended = await kiln('executor', [...args, '--oci-layout-path', layout]);
  assert.equal(ended.code, 0, ended.stderr);
  execFileSync('umoci', ['unpack', '--image', `${layout}:latest`, `${layout}-bundle`], { stdio: 'pipe' });
  assert.equal(execFileSync('ls', ['-A', `${layout}-bundle/rootfs`], { encoding: 'utf8' }), 'kept\n');
});
