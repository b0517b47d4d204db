import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { mount, unmount } from '../../src/os/index.ts';
import { tarEnd, tarHeader } from '../../src/layer/tar-writer.ts';
import { zstdCompressSync } from 'node:zlib';
import type { ContextOptions } from '../../executor/options.ts';
import { type OpenedSource, openSource } from '../../executor/open-source.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { Progress } from '../../src/support/index.ts';
import { archiveOf, fetchHere } from '../support/contexts.ts';
import { type LocalBuilds, openLocalBuilds } from '../support/local-builds.ts';
import { kiln, writeFiles } from '../support/programs.ts';
import { listTree } from '../support/trees.ts';

/*
 * Contexts that are tar archives of this machine, or come from standard input.
 */

let builds: LocalBuilds;
let directory = '';
let tree = '';
before(async () => {
  builds = await openLocalBuilds();
  ({ directory } = builds);
  tree = await writeFiles(join(directory, 'tree'), {
    Dockerfile: 'FROM scratch\nCOPY . /\n',
    'sub/Dockerfile': 'FROM scratch\nCOPY file /only\n',
    'sub/file': 'x',
    'ignored/file': '',
    '.dockerignore': 'ignored\n*ockerfile\n',
  });
});
after(() => builds[Symbol.asyncDispose]());

/** Writes bytes, and gives the address of the context that they are. */
function written(name: string, bytes: Buffer | string): string {
  const path = join(directory, name);
  writeFileSync(path, bytes);
  return `tar://${path}`;
}

/** What a member of a hostile archive says. */
function member(path: string, more: Partial<Parameters<typeof tarHeader>[0]> = {}): Buffer {
  return tarHeader({
    ...{ path: Buffer.from(path), link: Buffer.alloc(0), type: 'file', mode: 0o644, uid: 4, gid: 5 },
    ...{ size: 0, modified: 0n, major: 0, minor: 0, xattrs: new Map() },
    ...more,
  });
}

describe('a context that is an archive', () => {
  test('is unpacked whatever it is compressed by and called, and belongs to root', async () => {
    const wanted = listTree(tree, '%P %y %m').filter((line) => line !== '');
    for (const kind of ['plain', 'gzip', 'zstd', 'bzip2', 'xz'] as const) {
      await using context = await fetchHere(written('context.jpeg', archiveOf(tree, kind)));
      assert.deepEqual(listTree(context.directory, '%P %y %m'), wanted, kind);
    }
    await using context = await fetchHere(written('owned.tar', Buffer.concat([member('file'), tarEnd])));
    assert.deepEqual(listTree(context.directory), ['file f 644 0:0']);
    await using empty = await fetchHere(written('empty.tar', tarEnd));
    assert.deepEqual(listTree(empty.directory), []);
  });

  test('that was cut or damaged, or is none, is told so, and leaves nothing behind', async () => {
    const random = execFileSync('head', ['-c', '300000', '/dev/urandom']);
    await writeFiles(join(directory, 'big'), { file: random.toString('base64') });
    for (const kind of ['plain', 'gzip', 'zstd', 'xz'] as const) {
      const whole = archiveOf(join(directory, 'big'), kind);
      const cut = written('cut', whole.subarray(0, whole.length >> 1));
      await assert.rejects(
        fetchHere(cut),
        /build context .*\/cut cannot be unpacked: .*(cut|middle|cannot read)/,
        kind,
      );
    }
    const damaged = archiveOf(join(directory, 'big'), 'gzip');
    damaged.fill(0x55, damaged.length >> 1, (damaged.length >> 1) + 5000);
    await assert.rejects(fetchHere(written('damaged', damaged)), { code: 'E_ARCHIVE_DAMAGED' });
    for (const none of ['<html>', '', random, zstdCompressSync('text')])
      await assert.rejects(fetchHere(written('none', none)), { code: 'E_ARCHIVE_UNKNOWN' });
    await assert.rejects(fetchHere(`tar://${directory}/nowhere`), { code: 'E_CONTEXT_NOT_FOUND' });
    await assert.rejects(fetchHere(`tar://${directory}`), { remedy: `Write --context dir://${directory}.` });
  });

  test('that is hostile reaches nothing outside of it', async () => {
    const outside = join(directory, 'outside');
    mkdirSync(outside);
    writeFileSync(join(outside, 'secret'), 'secret');
    const link = (path: string, target: string): Buffer =>
      member(path, { type: 'symlink', link: Buffer.from(target) });
    const unsafe = [
      [member('../escaped')],
      [member('a/../../escaped')],
      [member('hard', { type: 'hardlink', link: Buffer.from('../outside/secret') })],
    ];
    for (const entries of unsafe)
      await assert.rejects(fetchHere(written('hostile', Buffer.concat([...entries, tarEnd]))), {
        code: 'E_TAR_UNSAFE',
      });
    const through = [
      link('out', outside),
      member('out/made'),
      link('up', '../../../..'),
      member('up/made-too'),
    ];
    await using context = await fetchHere(written('hostile', Buffer.concat([...through, tarEnd])));
    assert.deepEqual(readdirSync(outside), ['secret']);
    assert.equal(existsSync(join(context.directory, 'made-too')), true);
  });

  test('that is larger than what is free is refused before the disk is full', async () => {
    const place = join(directory, 'small');
    mkdirSync(place);
    mount('tmpfs', place, 'tmpfs', 0, 'size=48m,nr_inodes=20000');
    try {
      const zeros = zstdCompressSync(
        Buffer.concat([member('zeros', { size: 80 << 20 }), Buffer.alloc(80 << 20), tarEnd]),
      );
      const files = Array.from({ length: 30_000 }, (_, index) => member(`file-${index}`));
      for (const [name, archive] of [
        ['bytes', zeros],
        ['files', zstdCompressSync(Buffer.concat([...files, tarEnd]))],
      ] as const) {
        const failing = fetchHere(written(name, archive), { scratch: place });
        await assert.rejects(
          failing,
          { code: 'E_NO_SPACE', message: /no space for the build context/ },
          name,
        );
        assert.deepEqual(readdirSync(place), []);
      }
    } finally {
      unmount(place, { detach: true });
    }
  });
});

describe('the source of a build', () => {
  /** Opens what a build would, of an archive of a directory. */
  async function open(of: string, options: Partial<ContextOptions> = {}): Promise<OpenedSource> {
    const [progress, { signal }] = [new Progress(), new AbortController()];
    await using client = new RegistryClient();
    const place = { client, scratch: directory, progress, signal, environment: {} };
    const path = join(directory, 'source.tar');
    writeFileSync(path, archiveOf(of));
    const defaults = { contextSubPath: undefined, contextAccess: {}, dockerfile: 'Dockerfile' };
    return await openSource({ ...defaults, context: { kind: 'file', path }, ...options }, () =>
      Promise.resolve(place),
    );
  }

  test('is a directory of the context, if that is said', async () => {
    const { text, context } = await open(tree, { contextSubPath: './sub/' });
    assert.match(text, /only/);
    assert.deepEqual(readdirSync(context.directory), ['Dockerfile', 'file']);
    for (const contextSubPath of ['nowhere', 'sub/file'])
      await assert.rejects(open(tree, { contextSubPath }), { code: 'E_CONTEXT_NOT_FOUND' });
  });

  test('is no file of this machine, to which a link leads', async () => {
    const hostile = await writeFiles(join(directory, 'linked'), { 'Dockerfile.inside': 'FROM scratch\n' });
    const secret = join(directory, 'secret');
    writeFileSync(secret, 'PASSWORD=hunter2\n');
    mkdirSync(join(directory, 'secrets'));
    for (const name of ['Dockerfile', '.dockerignore', 'Dockerfile.inside.dockerignore'])
      symlinkSync(secret, join(hostile, name));
    symlinkSync('/Dockerfile.inside', join(hostile, 'Dockerfile.link'));
    symlinkSync(join(directory, 'secrets'), join(hostile, 'sub'));
    await assert.rejects(open(hostile), { code: 'E_DOCKERFILE_NOT_FOUND' });
    await assert.rejects(open(hostile, { contextSubPath: 'sub' }), { code: 'E_CONTEXT_NOT_FOUND' });
    for (const dockerfile of ['Dockerfile.inside', 'Dockerfile.link']) {
      const { text, context } = await open(hostile, { dockerfile });
      assert.equal(text, 'FROM scratch\n');
      assert.deepEqual(context.ignore, []);
    }
  });
});

describe('a build of a context that is an archive', () => {
  const build = (args: readonly string[], input?: Buffer): ReturnType<typeof kiln> =>
    kiln('executor', ['--cache-dir', join(directory, 'volume'), '--log-format', 'json', ...args], {
      ...(input === undefined ? {} : { input }),
    });
  const layoutOf = (name: string): string[] => ['--oci-layout-path', join(directory, name)];

  test('gives the image that its directory gives, from the cache', async () => {
    const first = await build(['--context', tree, '--cache', ...layoutOf('one')]);
    assert.equal(first.code, 0, first.stderr);
    const archive = written('same.tar', archiveOf(tree, 'gzip'));
    const second = await build(['--context', archive, '--cache', ...layoutOf('two')]);
    assert.equal(second.code, 0, second.stderr);
    const index = (name: string): string => readFileSync(join(directory, name, 'index.json'), 'utf8');
    assert.equal(index('two'), index('one'));
    assert.deepEqual(readdirSync(join(directory, 'volume/ingest')), []);
  });

  test('reads it from standard input, and a directory of it', async () => {
    const args = ['--context', '-', '--context-sub-path', 'sub', ...layoutOf('standard-input')];
    const built = await build(args, archiveOf(tree, 'zstd'));
    assert.equal(built.code, 0, built.stderr);
    const both = await build(['--context', 'tar://stdin', '--dockerfile', '-'], archiveOf(tree));
    assert.equal(both.code, 2);
    assert.match(both.messages, /cannot both be read from standard input/);
  });

  test('removes what it unpacked when it fails, and when it is ended', async () => {
    const failing = await writeFiles(join(directory, 'failing'), {
      Dockerfile: 'FROM scratch\nCOPY nowhere /\n',
    });
    const built = await build(['--context', written('failing.tar', archiveOf(failing))]);
    assert.equal(built.code, 1);
    assert.match(built.messages, /Dockerfile:2: .*E_COPY_SOURCE_NOT_FOUND/);
    const ingest = join(directory, 'volume/ingest');
    const ended = await kiln('executor', ['--context', '-', '--cache-dir', join(directory, 'volume')], {
      input: archiveOf(tree).subarray(0, 2048),
      inputGoesOn: true,
      onStart: (child) => {
        // Once it has begun to unpack.
        const timer = setInterval(() => {
          if (!existsSync(ingest) || readdirSync(ingest).length === 0) return;
          clearInterval(timer);
          child.kill('SIGTERM');
        }, 20);
        child.once('exit', () => clearInterval(timer));
      },
    });
    assert.equal(ended.code, 143, ended.stderr);
    assert.deepEqual(readdirSync(ingest), []);
  });
});
