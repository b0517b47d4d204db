import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chownSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import { SharedPlaces } from '../../executor/isolation/inplace/shared-places.ts';
import {
  listSysvObjects,
  mount,
  namespaces,
  removeSysvObject,
  unmount,
  unshare,
} from '../../src/os/index.ts';

describe('what a step leaves in shared places', () => {
  let directory = '';
  let place = '';
  before(() => {
    // What is removed here is then this process's alone.
    unshare(namespaces.ipc);
    directory = mkdtempSync(join(tmpdir(), 'kiln-shared-'));
    place = join(directory, 'shm');
    mkdirSync(place);
    mount('tmpfs', place, 'tmpfs', 0, 'size=1m');
  });
  after(() => {
    unmount(place, { detach: true });
    rmSync(directory, { recursive: true, force: true });
  });
  beforeEach(() => {
    for (const name of readdirSync(place)) rmSync(join(place, name), { recursive: true });
    for (const object of listSysvObjects()) removeSysvObject(object);
  });

  /** Runs Perl as somebody. */
  const perl = (program: string, uid = 0): string =>
    execFileSync('perl', ['-e', `use POSIX; POSIX::setuid(${uid}); ${program}`], { encoding: 'utf8' });
  const kinds = (): string[] => listSysvObjects().map(({ kind }) => kind);

  test('is removed, and what was there before stays', () => {
    writeFileSync(join(place, 'kept'), '1');
    writeFileSync(join(place, 'replaced'), '1');
    perl('shmget(1, 4096, 01600)');
    const [kept] = listSysvObjects();
    const shared = new SharedPlaces({ places: [place, join(directory, 'missing')] });
    mkdirSync(join(place, 'new/deep'), { recursive: true });
    writeFileSync(join(place, 'new/deep/file'), '2');
    writeFileSync(join(place, 'others'), '2');
    chownSync(join(place, 'others'), 1000, 1000);
    rmSync(join(place, 'replaced'));
    writeFileSync(join(place, 'replaced'), '2');
    writeFileSync(join(place, 'kept'), '2');
    for (const uid of [0, 1000])
      perl(
        `shmget(2 + ${uid}, 4096, 01600); semget(2 + ${uid}, 2, 01600); my $q = msgget(2 + ${uid}, 01600); msgsnd($q, pack("l! a*", 1, "x"), 0) or die $!`,
        uid,
      );
    assert.equal(listSysvObjects().length, 7);
    shared.removeNew();
    assert.deepEqual(readdirSync(place), ['kept']);
    assert.deepEqual(
      listSysvObjects().map(({ id }) => id),
      [kept?.id],
    );
    assert.equal(process.geteuid?.(), 0);
  });

  test('stays while somebody else uses it', () => {
    const shared = new SharedPlaces({ places: [place] });
    writeFileSync(join(place, 'open'), '');
    writeFileSync(join(place, 'closed'), '');
    const fd = openSync(join(place, 'open'), 'r');
    shared.removeNew();
    assert.deepEqual(readdirSync(place), ['open']);
    closeSync(fd);
    shared.removeNew();
    assert.deepEqual(readdirSync(place), []);
  });

  test('is no business of this container when processes that it does not know made it', () => {
    const shared = new SharedPlaces({ places: [] });
    const script =
      'shmget(1, 4096, 01600); my $s = semget(2, 1, 01600); semctl($s, 0, 16, 1); my $q = msgget(3, 01600); msgsnd($q, pack("l! a*", 1, "x"), 0)';
    // A pid namespace beside this one would do the same; this one is asked from within another.
    execFileSync('perl', ['-e', script]);
    assert.deepEqual(kinds().sort(), ['msg', 'sem', 'shm']);
    const module = join(import.meta.dirname, '../../src/os/index.ts');
    const ask = `const { listSysvObjects } = await import('${module}'); console.log(listSysvObjects().filter((each) => each.isOwn()).length)`;
    const own = (...prefix: string[]): string =>
      execFileSync('unshare', [...prefix, process.execPath, '--input-type=module', '-e', ask], {
        encoding: 'utf8',
      }).trim();
    assert.equal(own('--mount'), '3');
    assert.equal(own('--pid', '--fork', '--mount-proc'), '0');
    shared.removeNew();
    assert.deepEqual(kinds(), []);
  });

  test('on a volume is left alone', () => {
    const volume = join(directory, 'volume');
    mkdirSync(volume);
    mount('ramfs', volume, 'ramfs', 0, null);
    const shared = new SharedPlaces({ places: [volume] });
    writeFileSync(join(volume, 'file'), '');
    shared.removeNew();
    assert.deepEqual(readdirSync(volume), ['file']);
    unmount(volume, { detach: true });
  });
});
