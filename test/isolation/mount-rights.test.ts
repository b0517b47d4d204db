import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { isOlder } from '../../executor/isolation/mount-rights.ts';
import { mount, unmount } from '../../src/os/index.ts';
import { temporaryDirectory } from '../support/programs.ts';

/** What the preflight says in another process. */
function preflight(scratch: string, under: readonly string[] = []): string {
  const script = join(import.meta.dirname, 'preflight.ts');
  const [file = '', ...args] = [...under, process.execPath, script, scratch];
  return execFileSync(file, args, { encoding: 'utf8' });
}

describe('the preflight of overlay', () => {
  test('finds that root can', async () => {
    await using directory = await temporaryDirectory();
    assert.equal(preflight(directory.path), 'root\nit can\n');
  });

  test('finds that root of a user namespace can, with one id or more', async () => {
    await using directory = await temporaryDirectory();
    assert.equal(preflight(directory.path, ['unshare', '--user', '--map-root-user']), 'single-id\nit can\n');
  });

  test('names the capability that is missing', async () => {
    await using directory = await temporaryDirectory();
    const said = preflight(directory.path, ['setpriv', '--bounding-set=-sys_admin']);
    assert.match(said, /^none\nerror: .*lacks the capability SYS_ADMIN \[E_ISOLATION_OVERLAY\]$/m);
    assert.match(
      said,
      /^ {2}remedy: Give the pod SYS_ADMIN in its own user namespace \(hostUsers: false\)\.$/m,
    );
  });

  test('names the overlay that the scratch space lies on', async () => {
    await using directory = await temporaryDirectory();
    for (const name of ['lower', 'upper', 'work', 'merged']) await mkdir(join(directory.path, name));
    const at = (name: string): string => join(directory.path, name);
    const data = `lowerdir=${at('lower')},upperdir=${at('upper')},workdir=${at('work')}`;
    mount('overlay', at('merged'), 'overlay', 0, data);
    try {
      const said = preflight(at('merged'));
      assert.match(said, /the scratch space lies on the container's own overlay/);
      assert.match(said, /remedy: Put it on a volume \(emptyDir\), with --scratch-dir\./);
    } finally {
      unmount(at('merged'), { detach: true });
    }
  });

  test('knows which kernels are too old for user namespaces', () => {
    assert.deepEqual(
      ['5.10.0-28-amd64', '4.18.0', '5.11.0', '6.1.0-rc1', '10.0'].map((version) =>
        isOlder(version, [5, 11]),
      ),
      [true, true, false, false, false],
    );
  });
});
