import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type Ended, mountsBelow } from '../support/programs.ts';
import { freePort, startRegistry, type TestRegistry } from '../support/registry.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

/** Exit codes, as docs/cli.md has them. */
const codes = { build: 1, usage: 2, environment: 3, registry: 4 };

interface Mistake {
  readonly dockerfile: string;
  readonly code: number;
  /** What the error says. */
  readonly says: RegExp;
  readonly args?: readonly string[];
  /** Further files of the context. */
  readonly files?: Readonly<Record<string, string>>;
}

const mistakes: Readonly<Record<string, Mistake>> = {
  'an unknown instruction': {
    dockerfile: 'FROM %BASE%\nRUN true\nCOPPY a b\n',
    code: codes.build,
    says: /Dockerfile:3: .*COPPY/,
  },
  'rights that no step can have': {
    dockerfile: 'FROM %BASE%\nRUN --security=insecure true\n',
    code: codes.build,
    says: /Dockerfile:2: .*--security=insecure/,
  },
  'an option of a mount that is mistyped': {
    dockerfile: 'FROM %BASE%\nRUN --mount=type=cache,target=/x,sharing=locke true\n',
    code: codes.build,
    says: /Dockerfile:2: .*"locke" is no value of sharing[^]*\^\^\^\^\^\n[^]*Did you mean locked\?/,
  },
  'a secret that is not there': {
    dockerfile: 'FROM %BASE%\nRUN --mount=type=secret,id=token true\n',
    args: ['--secret', 'id=token,src=/nowhere/token'],
    code: codes.usage,
    says: /the secret token cannot be read from \/nowhere\/token/,
  },
  'a file that is not in the context': {
    dockerfile: 'FROM %BASE%\n\nCOPY nowhere.txt /\n',
    code: codes.build,
    says: /Dockerfile:3: .*nowhere\.txt/,
  },
  'a source outside the context': {
    dockerfile: 'FROM %BASE%\nCOPY ../../etc/shadow /\n',
    code: codes.build,
    says: /Dockerfile:2: .*etc\/shadow/,
  },
  'a stage that is not there': {
    dockerfile: 'FROM %BASE% AS builder\nFROM %BASE%\nCOPY --from=buidler /a /a\n',
    code: codes.build,
    says: /Dockerfile:3: .*buidler[\s\S]*builder/,
  },
  'a stage that copies from itself': {
    dockerfile: 'FROM %BASE% AS loop\nCOPY --from=loop /a /a\n',
    code: codes.build,
    says: /Dockerfile:2: .*loop/,
  },
  'a target that is not there': {
    dockerfile: 'FROM %BASE% AS app\n',
    args: ['--target', 'ap'],
    code: codes.usage,
    says: /"ap"[\s\S]*app/,
  },
  'a command that fails': {
    dockerfile: 'FROM %BASE%\nRUN echo before && exit 42\n',
    code: codes.build,
    says: /Dockerfile:2: .*exit code 42/,
  },
  'a command that is not there': {
    dockerfile: 'FROM %BASE%\nRUN ["/no/such/program"]\n',
    code: codes.build,
    says: /Dockerfile:2: .*no\/such\/program/,
  },
  'a user that the image does not know': {
    dockerfile: 'FROM %BASE%\nUSER nosuchuser\nRUN true\n',
    code: codes.build,
    says: /Dockerfile:3: .*nosuchuser/,
  },
  'a directory copied onto a link of the image': {
    dockerfile: 'FROM %BASE%\nRUN ln -s usr /lib\nCOPY tree /\n',
    files: { 'tree/lib/x': '' },
    code: codes.build,
    says: /Dockerfile:3: .*\/lib/,
  },
  'an owner that the image does not know': {
    dockerfile: 'FROM %BASE%\nCOPY --chown=nosuchuser Dockerfile /\n',
    code: codes.build,
    says: /Dockerfile:2: .*nosuchuser/,
  },
  'links that lead in a circle': {
    dockerfile: 'FROM %BASE%\nRUN ln -s /b /a; ln -s /a /b\nFROM %BASE%\nCOPY --from=0 /a/file /x\n',
    code: codes.build,
    says: /Dockerfile:4: .*symbolic links/,
  },
  'a destination below links that lead in a circle': {
    dockerfile: 'FROM %BASE%\nRUN ln -s /b /a; ln -s /a /b\nCOPY Dockerfile /a/x\n',
    code: codes.build,
    says: /Dockerfile:3: .*symbolic links/,
  },
  'a directory that is a file': {
    dockerfile: 'FROM %BASE%\nRUN echo > /file\nWORKDIR /file/below\n',
    code: codes.build,
    says: /Dockerfile:3: .*\/file/,
  },
  'a file whose name marks a deleted one': {
    dockerfile: 'FROM %BASE%\nRUN echo > /.wh.x\n',
    code: codes.build,
    says: /Dockerfile:2: .*\.wh\.x/,
  },
  'a command in an image that has no shell': {
    dockerfile: 'FROM scratch\nRUN true\n',
    code: codes.build,
    says: /Dockerfile:2: .*\/bin\/sh/,
  },
  'a command that is killed': {
    dockerfile: 'FROM %BASE%\nRUN kill -9 $$\n',
    code: codes.build,
    says: /Dockerfile:2: .*SIGKILL[\s\S]*memory/,
  },
  'a malformed .dockerignore': {
    dockerfile: 'FROM %BASE%\nCOPY . /\n',
    files: { '.dockerignore': '# comment\n[\n' },
    code: codes.build,
    says: /\.dockerignore:2: .*"\["/,
  },
  'a base that is not there': {
    dockerfile: 'FROM %HOST%/not/there:9\nRUN true\n',
    code: codes.registry,
    says: /Dockerfile:1: .*not\/there:9/,
  },
  'a base whose name is no reference': {
    dockerfile: 'FROM UPPER/Case:tag:tag\n',
    code: codes.build,
    says: /Dockerfile:1: .*UPPER/,
  },
  'a registry that is down': {
    dockerfile: 'FROM %DOWN%/base:1\nRUN true\n',
    code: codes.registry,
    says: /Dockerfile:1: .*cannot be reached/,
  },
  'a base that needs a password': {
    dockerfile: 'FROM %PRIVATE%/base:1\nRUN true\n',
    code: codes.registry,
    says: /Dockerfile:1: .*(?:unauthorized|authentication|credentials|401)/i,
  },
  'an empty Dockerfile': { dockerfile: '', code: codes.build, says: /Dockerfile.*FROM/ },
  'an unfinished here-document': {
    dockerfile: 'FROM %BASE%\nRUN <<EOF\necho a\n',
    code: codes.build,
    says: /Dockerfile:2: .*EOF/,
  },
  'a variable that must be set': {
    dockerfile: 'FROM %BASE%\nARG A\nWORKDIR ${A:?is missing}\n',
    code: codes.build,
    says: /Dockerfile:3: .*is missing/,
  },
  'a flag that does not exist': {
    dockerfile: 'FROM %BASE%\n',
    args: ['--destinaton', 'x'],
    code: codes.usage,
    says: /--destinaton[\s\S]*--destination/,
  },
  'a destination that is no reference': {
    dockerfile: 'FROM %BASE%\n',
    args: ['--destination', 'http://x/y'],
    code: codes.usage,
    says: /http:\/\/x\/y/,
  },
  'a destination whose registry is down': {
    dockerfile: 'FROM %BASE%\nRUN true\n',
    args: ['--destination', '%DOWN%/app:1'],
    code: codes.registry,
    says: /%DOWN%/,
  },
  'a destination with wrong credentials': {
    dockerfile: 'FROM %BASE%\nRUN true\n',
    args: ['--destination', '%PRIVATE%/app:1'],
    code: codes.registry,
    says: /%PRIVATE%[\s\S]*(?:unauthorized|authentication|credentials|401)/i,
  },
};

describe('a mistake ends with one clear error:', () => {
  let workshop: Workshop;
  let locked: TestRegistry;
  let down: string;
  let home: string;
  before(async () => {
    workshop = await openWorkshop();
    locked = await startRegistry({ user: 'somebody', password: 'right' });
    down = `127.0.0.1:${await freePort()}`;
    home = join(workshop.directory, 'home');
    await mkdir(join(home, '.docker'), { recursive: true });
    const auth = Buffer.from('somebody:wrong').toString('base64');
    await writeFile(
      join(home, '.docker/config.json'),
      JSON.stringify({ auths: { [locked.host]: { auth } } }),
    );
  });
  after(async () => {
    await locked[Symbol.asyncDispose]();
    await workshop[Symbol.asyncDispose]();
  });

  const fill = (text: string): string =>
    text
      .replaceAll('%HOST%', workshop.registry.host)
      .replaceAll('%DOWN%', down)
      .replaceAll('%PRIVATE%', locked.host);

  for (const [name, { dockerfile, code, says, args = [], files = {} }] of Object.entries(mistakes))
    test(name, async () => {
      const context = await workshop.context({ ...files, Dockerfile: fill(dockerfile) });
      const ended = await workshop.build(context, args.length === 0 ? ['--no-push'] : args.map(fill), {
        env: { HOME: home },
      });
      requireOneError(ended, code);
      assert.match(ended.messages, new RegExp(fill(says.source), says.flags));
      await requireNothingLeft(workshop);
    });

  test('a context that is not there', async () => {
    const ended = await workshop.build('/no/such/context', ['--no-push']);
    requireOneError(ended, codes.usage);
    assert.match(ended.messages, /\/no\/such\/context/);
  });

  test('a Dockerfile that is not there', async () => {
    const context = await workshop.context({ 'other.txt': '' });
    const ended = await workshop.build(context, ['--no-push', '--dockerfile', 'Containerfile']);
    requireOneError(ended, codes.usage);
    assert.match(ended.messages, /Containerfile/);
  });

  test('a cache directory that is a file', async () => {
    const context = await workshop.context({ Dockerfile: 'FROM %BASE%\n', file: '' });
    const ended = await workshop.build(context, ['--no-push', '--cache-dir', join(context, 'file')]);
    requireOneError(ended, codes.environment);
    assert.match(ended.messages, /--cache-dir/);
  });

  for (const step of ['RUN dd if=/dev/zero of=/big bs=1M count=64', 'COPY big /big'])
    test(`a disk that is full at ${step.slice(0, 4)}`, async () => {
      const context = await workshop.context({ Dockerfile: `FROM %BASE%\n${step}\n` });
      await writeFile(join(context, 'big'), Buffer.alloc(64 * 1024 * 1024, 'x'));
      const small = join(workshop.directory, workshop.unique('small'));
      await mkdir(small);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=40m', 'tmpfs', small]);
      try {
        const ended = await workshop.build(context, ['--no-push', '--cache-dir', small]);
        assert.equal(ended.code, step.startsWith('RUN') ? codes.build : codes.environment, ended.stderr);
        requireOneError(ended, ended.code);
        assert.match(ended.messages + outputOf(ended), /ENOSPC|no space|No space/);
        assert.deepEqual(mountsBelow(small), []);
        assert.deepEqual(await unfinished(small), []);
      } finally {
        execFileSync('umount', [small]);
        await rm(small, { recursive: true });
      }
    });
});

function outputOf({ events }: Ended): string {
  return events.map((event) => (event.type === 'output' ? String(event.data) : '')).join('');
}

/** One error of at most three lines, with its code and without a stack; one about a line of the Dockerfile shows that line too. */
function requireOneError(ended: Ended, code: number | null): void {
  assert.equal(ended.code, code, ended.stderr);
  const all = ended.messages.split('\n');
  const excerpt = all.filter((line) => /^ {4,5}[0-9 ]* \| /.test(line));
  const lines = all.filter((line) => !excerpt.includes(line));
  assert.ok(lines.length <= 3, ended.messages);
  if (excerpt.length > 0) {
    const named = /Dockerfile:([0-9]+)/.exec(ended.messages)?.[1];
    assert.equal(excerpt.length, 2, ended.messages);
    assert.match(excerpt[0] ?? '', new RegExp(`^ *${named ?? 'none'} \\| `));
    assert.match(excerpt[1] ?? '', /^ *\| \s*\^+$/);
  }
  assert.equal(lines.filter((line) => line.startsWith('error: ')).length, 1, ended.messages);
  assert.doesNotMatch(ended.stderr, /^\s+at .*:[0-9]+:[0-9]+\)?$/m);
}

async function requireNothingLeft(workshop: Workshop): Promise<void> {
  assert.deepEqual(mountsBelow(workshop.directory), []);
  assert.deepEqual(await unfinished(workshop.volume), []);
}

/** What builds left in the volume's room for unfinished things. */
async function unfinished(volume: string): Promise<string[]> {
  const names = await readdir(join(volume, 'ingest')).catch(() => []);
  return names.filter((name) => !name.endsWith('.lock'));
}
