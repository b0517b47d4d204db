import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { cp, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { openSavedImage } from '../../executor/saved/index.ts';
import { unpackWithOtherTools } from '../support/check-image.ts';
import { type Ended, kiln } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

describe('executor push', () => {
  let workshop: Workshop;
  /** The same image as a tar, in a layout with another one, and as other tools save it. */
  let tar: string;
  let layout: string;
  let archive: string;
  let digest: string;
  before(async () => {
    workshop = await openWorkshop();
    const file = (name: string): string => join(workshop.directory, name);
    tar = file('image.tar');
    layout = file('layout');
    archive = file('archive.tar');
    const context = await workshop.context({
      Dockerfile: 'FROM %BASE%\nARG N\nRUN echo "saved $N" > /saved\n',
    });
    const build = async (name: string, ...args: string[]): Promise<void> => {
      const ended = await workshop.build(context, [
        ...['--no-push', '--oci-layout-path', layout, '--destination', `registry.invalid/app:${name}`],
        ...['--build-arg', `N=${name}`, ...args],
      ]);
      assert.equal(ended.code, 0, ended.messages);
    };
    await build('one', '--tar-path', tar, '--digest-file', file('digest'));
    await build('attested', '--attest', 'type=provenance');
    digest = readFileSync(file('digest'), 'utf8');
    execFileSync('skopeo', ['copy', '--quiet', `oci:${layout}:one`, `docker-archive:${archive}:team/app:9`]);
  });
  after(() => workshop[Symbol.asyncDispose]());

  const push = (...args: string[]): Promise<Ended> =>
    kiln('executor', ['push', '--log-format', 'json', ...args]);
  const name = (prefix: string): string => `${workshop.registry.host}/${workshop.unique(prefix)}:1`;
  const digestOf = (image: string): string =>
    execFileSync(
      'skopeo',
      ['inspect', '--tls-verify=false', '--format', '{{.Digest}}', `docker://${image}`],
      {
        encoding: 'utf8',
      },
    ).trim();
  const savedText = (image: string): string =>
    readFileSync(join(unpackWithOtherTools(workshop.directory, image), 'rootfs/saved'), 'utf8');

  test('pushes what --tar-path wrote, with its digest, to several destinations', async () => {
    const [one, two] = [name('one'), name('two')];
    const file = join(workshop.directory, 'pushed');
    const ended = await push(tar, '-d', one, '-d', two, '--image-name-tag-with-digest-file', file);
    assert.equal(ended.code, 0, ended.messages);
    assert.equal(digestOf(one), digest);
    assert.equal(digestOf(two), digest);
    assert.equal(readFileSync(file, 'utf8'), `${one}@${digest}\n${two}@${digest}\n`);
    assert.equal(savedText(one), 'saved one\n');
  });

  test('pushes one image of a layout that has several, and an index with all it refers to', async () => {
    const unsaid = await push(layout, '-d', name('unsaid'));
    assert.equal(unsaid.code, 2);
    assert.match(unsaid.messages, /several images \(one, attested\); name one.*\[E_IMAGE_UNREADABLE\]/);
    const image = name('named');
    assert.equal((await push(`${layout}:one`, '-d', image)).code, 0);
    assert.equal(digestOf(image), digest);
    const attested = name('attested');
    assert.equal((await push(`oci:${layout}:attested`, '-d', attested)).code, 0);
    const raw = execFileSync('skopeo', ['inspect', '--raw', '--tls-verify=false', `docker://${attested}`]);
    const index = JSON.parse(raw.toString()) as { manifests: { digest: string }[] };
    assert.equal(index.manifests.length, 2);
    for (const child of index.manifests)
      execFileSync('skopeo', [
        ...['inspect', '--raw', '--tls-verify=false'],
        `docker://${attested.replace(/:1$/, '')}@${child.digest}`,
      ]);
  });

  test('pushes archives of other tools, and compressed ones', async () => {
    const packed = join(workshop.directory, 'archive.tar.gz');
    writeFileSync(packed, gzipSync(readFileSync(archive)));
    for (const source of [archive, packed, `${archive}:9`]) {
      const image = name('archive');
      const ended = await push(source, '-d', image);
      assert.equal(ended.code, 0, ended.messages);
      assert.equal(savedText(image), 'saved one\n');
    }
    await assert.rejects(openSavedImage(`${archive}:8`), { message: /no image of the name 8/ });
  });

  test('needs a destination, and a source that is there', async () => {
    const nowhere = await push(tar);
    assert.equal(nowhere.code, 2);
    assert.match(nowhere.messages, /there is no --destination/);
    const nothing = await push('nothing.tar', '-d', name('nothing'));
    assert.equal(nothing.code, 2);
    assert.match(nothing.messages, /there is no image at nothing\.tar \[E_IMAGE_NOT_FOUND\]/);
  });

  test('pushes nothing of what is damaged, and says what it is', async () => {
    const file = (name: string): string => join(workshop.directory, name);
    const whole = readFileSync(tar);
    const cases: readonly [string, Buffer, RegExp][] = [
      ['cut.tar', whole.subarray(0, whole.length / 2), /is cut off/],
      ['text.tar', Buffer.from('hello '.repeat(1000)), /is no tar archive/],
      ['empty.tar', Buffer.alloc(1024), /neither index\.json nor manifest\.json/],
      ['cut.tar.gz', gzipSync(whole).subarray(0, 1000), /is damaged/],
      ['other.tar', execFileSync('tar', ['-C', '/etc', '-c', 'hostname']), /neither index\.json nor/],
    ];
    for (const [path, bytes, why] of cases) {
      writeFileSync(file(path), bytes);
      await assert.rejects(openSavedImage(file(path)), { code: 'E_IMAGE_UNREADABLE', message: why }, path);
    }
    // A blob that is another one is found out while it is pushed, and no tag names it.
    const altered = file('altered');
    await cp(layout, altered, { recursive: true });
    const blobs = join(altered, 'blobs/sha256');
    for (const blob of await readdir(blobs)) {
      const bytes = readFileSync(join(blobs, blob));
      if (bytes[0] !== 0x1f) continue;
      bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
      writeFileSync(join(blobs, blob), bytes);
    }
    const image = name('altered');
    const ended = await push(`${altered}:one`, '-d', image, '--push-retry', '0');
    assert.notEqual(ended.code, 0);
    assert.match(ended.messages, /\[E_BLOB_CORRUPT\]/);
    assert.throws(() => digestOf(image));
  });
});
