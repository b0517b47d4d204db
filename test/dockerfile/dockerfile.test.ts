import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { BuildError } from '../../src/support/index.ts';
import {
  expandHeredoc,
  expandWord,
  expandWords,
  parseDockerfile,
  resolveMount,
  type RunMount,
} from '../../src/dockerfile/index.ts';

const only = (line: string) => {
  const instruction = parseDockerfile(`FROM scratch\n${line}\n`, 'Dockerfile').stages[0]?.instructions[0];
  assert.ok(instruction);
  return instruction;
};

describe('parseDockerfile', () => {
  test('joins continuation lines, skips comments between them, and keeps line numbers', () => {
    const { stages } = parseDockerfile(
      '# comment\nFROM a AS One\nRUN x \\\n  # note\n\n  && y\nCMD ["z"]\n',
      'D',
    );
    assert.equal(stages[0]?.name, 'one');
    const [run, cmd] = stages[0].instructions;
    assert.ok(run?.kind === 'run');
    assert.deepEqual([run.line, run.endLine, run.command.command], [3, 6, 'x   && y']);
    assert.deepEqual(parseDockerfile('FROM a\nRUN x \\\n\n y', 'D').emptyContinuations, [3]);
    assert.equal(cmd?.line, 7);
  });

  test('obeys the escape directive', () => {
    const { stages } = parseDockerfile('# escape=`\nFROM a\nRUN x `\ny\\\n', 'D');
    const run = stages[0]?.instructions[0];
    assert.ok(run?.kind === 'run');
    assert.equal(run.command.command, 'x y\\');
  });

  test('reads here-documents', () => {
    const run = only('RUN <<-"EOF" cat\n\t$a\n\tEOF');
    assert.ok(run.kind === 'run');
    assert.deepEqual(run.heredocs, [{ name: 'EOF', content: '\t$a\n', chomp: true, expand: false }]);
    const copy = only('COPY <<a <<b /dest/\n1\na\n2\nb');
    assert.ok(copy.kind === 'copy');
    assert.deepEqual(
      copy.heredocs.map(({ name, content }) => [name, content]),
      [
        ['a', '1\n'],
        ['b', '2\n'],
      ],
    );
    assert.deepEqual(copy.sources, []);
  });

  test('takes no escaped escape character for a continuation', () => {
    assert.equal(parseDockerfile('FROM a\nRUN x \\\\\nRUN y', 'D').stages[0]?.instructions.length, 2);
  });

  test('keeps the comments before an instruction, up to an empty one', () => {
    const [stage] = parseDockerfile('FROM a\n# one\n#\n# two\n# three\nRUN x\nRUN y', 'D').stages;
    assert.deepEqual(
      stage?.instructions.map(({ comments }) => comments),
      [['two', 'three'], []],
    );
  });

  test('opens here-documents only where a shell would see them', () => {
    const openings = (line: string, rest = ''): string[] => {
      const run = only(`${line}\n${rest}`);
      return run.kind === 'run' || run.kind === 'copy' ? run.heredocs.map(({ name }) => name) : [];
    };
    assert.deepEqual(openings('RUN echo "<<EOF"'), []);
    assert.deepEqual(openings('RUN cat <<<EOF'), []);
    assert.deepEqual(openings('RUN ["echo", "<<EOF"]'), []);
    assert.deepEqual(openings('RUN 3<<A cat << B', 'A\nB'), ['A', 'B']);
    assert.deepEqual(openings('RUN <<EOF ${SHELL}', 'EOF'), ['EOF']);
  });

  test('reads flags with quotes, up to the first word that is none', () => {
    const run = only('RUN --mount=type=bind,\\"source=a,b\\",dst=/x --network=none -- --x');
    assert.ok(run.kind === 'run');
    assert.equal(run.command.command, '--x');
    assert.equal(run.network, 'none');
    const copy = only('COPY --link --parents=false --exclude=a --exclude="b c" --chmod=u+x a b');
    assert.ok(copy.kind === 'copy');
    assert.deepEqual(
      [copy.link, copy.parents, copy.excludes, copy.chmod],
      [true, false, ['a', 'b c'], 'u+x'],
    );
    const add = only('ADD --checksum=sha256:1 --keep-git-dir --unpack=false https://x/y.git /y');
    assert.ok(add.kind === 'add');
    assert.deepEqual([add.checksum, add.keepGitDir, add.unpack], ['sha256:1', true, false]);
  });

  test('reads mounts of every type, with their defaults', () => {
    const mount = (text: string): RunMount => {
      const run = only(`RUN --mount=${text} x`);
      assert.ok(run.kind === 'run');
      const [fields] = run.mounts;
      assert.ok(fields);
      return resolveMount(fields, (value) => value.replace('$v', 'V'), { file: 'D', line: 2 });
    };
    const bind = mount('target=/a,from=b,src=$v');
    assert.deepEqual(
      [bind.type, bind.target, bind.from, bind.source, bind.readOnly],
      ['bind', '/a', 'b', 'V', true],
    );
    assert.equal(mount('dst=/a,rw').readOnly, false);
    const cache = mount('type=cache,id=c,sharing=locked,target=/c,mode=0700,uid=1,gid=2');
    assert.deepEqual(
      [cache.readOnly, cache.sharing, cache.mode, cache.uid, cache.gid],
      [false, 'locked', 0o700, 1, 2],
    );
    assert.equal(mount('type=tmpfs,dst=/t,size=64m').size, 64 * 1024 ** 2);
    assert.deepEqual([mount('type=secret,id=s,env=A').env, mount('type=ssh,required').required], ['A', true]);
  });

  test('takes malformed JSON for the shell form', () => {
    for (const [text, form] of [
      ['["a"]', 'exec'],
      ["['a']", 'shell'],
      ['[a', 'shell'],
    ] as const) {
      const cmd = only(`CMD ${text}`);
      assert.ok(cmd.kind === 'cmd');
      assert.equal(cmd.command.form, form, text);
    }
  });

  test('reads every instruction', () => {
    const kinds = [
      ['ENV a=1 b="x y"', 'env'],
      ['ENV a b c', 'env'],
      ['ARG x=1 y', 'arg'],
      ['LABEL a.b="c"', 'label'],
      ['WORKDIR /x', 'workdir'],
      ['USER a:b', 'user'],
      ['EXPOSE 80/tcp 90', 'expose'],
      ['VOLUME ["/a"]', 'volume'],
      ['ENTRYPOINT x', 'entrypoint'],
      ['SHELL ["a"]', 'shell'],
      ['STOPSIGNAL 9', 'stopsignal'],
      ['HEALTHCHECK --interval=1m30s CMD x', 'healthcheck'],
      ['HEALTHCHECK NONE', 'healthcheck'],
      ['ONBUILD RUN x', 'onbuild'],
      ['MAINTAINER a b', 'maintainer'],
      ['ADD a b /c', 'add'],
      ['COPY --from=x --chown=1:2 --chmod=0644 a b', 'copy'],
    ] as const;
    for (const [line, kind] of kinds) assert.equal(only(line).kind, kind, line);
    const health = only('HEALTHCHECK --interval=1m30s --retries=2 CMD x');
    assert.ok(health.kind === 'healthcheck');
    assert.deepEqual([health.interval, health.retries], [90e9, 2]);
  });

  const wrong: readonly (readonly [string, RegExp, number])[] = [
    ['FROM a\nRUNN x', /unknown instruction RUNN/, 2],
    ['RUN x', /before the first FROM/, 1],
    ['FROM', /needs an argument/, 1],
    ['FROM a b', /FROM takes an image/, 1],
    ['FROM a AS 1x', /invalid stage name/, 1],
    ['FROM a\nCOPY x', /at least one source/, 2],
    ['FROM a\nCOPY --form=x a b', /no flag --form/, 2],
    ['FROM a\nCMD ["a", 1]', /texts only/, 2],
    ['FROM a\nCOPY [["a"]]', /texts only/, 2],
    ['FROM a\nRUN --network=nope x', /no value "nope"/, 2],
    ['FROM a\nRUN --mount=typ=cache x', /no option "typ"/, 2],
    ['FROM a\nRUN --mount=from=$x,target=/y z', /does not expand/, 2],
    ['FROM a\nRUN --mount=a\\"b x', /quote is misplaced|no option/, 2],
    ['FROM a\nCOPY --from=a --from=b c d', /given twice/, 2],
    ['FROM a\nCOPY --link=maybe c d', /true or false/, 2],
    ['FROM a\nCOPY --chown c d', /needs a value/, 2],
    ['FROM a\nCOPY a <<EOF\nEOF', /destination/, 2],
    ['FROM a\nENV =1', /name=value/, 2],
    ['FROM a\nVOLUME [""]', /empty path/, 2],
    ['FROM a\nENV a=1 b', /name=value/, 2],
    ['FROM a\nSHELL x', /JSON list/, 2],
    ['FROM a\nRUN <<EOF\nx', /not ended/, 2],
    ['FROM a\nONBUILD FROM b', /cannot be a trigger/, 2],
    ['FROM a\nHEALTHCHECK --interval=x CMD y', /not a duration/, 2],
    ['# escape=x\nFROM a', /invalid escape/, 1],
    ['FROM a\nARG =2', /has no name/, 2],
  ];
  for (const [text, message, line] of wrong)
    test(`refuses ${JSON.stringify(text)}`, () => {
      assert.throws(() => parseDockerfile(text, 'D'), { name: 'BuildError', message, where: `D:${line}` });
    });

  test('suggests the nearest word', () => {
    assert.throws(() => parseDockerfile('FROM a\nCOPPY x y', 'D'), { remedy: 'Did you mean COPY?' });
    assert.throws(() => parseDockerfile('FROM a\nCOPY --chonw=1 x y', 'D'), {
      remedy: 'Did you mean --chown?',
    });
  });

  test('shows the line and marks the word that is wrong', () => {
    const excerpt = (text: string): string | undefined => {
      try {
        parseDockerfile(text, 'D');
      } catch (error) {
        return (error as BuildError).excerpt;
      }
      return undefined;
    };
    assert.equal(excerpt('FROM a\n  COPPY x y'), '    2 |   COPPY x y\n      |   ^^^^^');
    assert.equal(
      excerpt('FROM a\nRUN \\\n\t--nework=host x'),
      '    3 | \t--nework=host x\n      | \t^^^^^^^^',
    );
    assert.equal(excerpt('FROM a\nCOPY x'), '    2 | COPY x\n      | ^^^^');
    assert.equal(excerpt('FROM a\nRUNN \u001b[2J'), '    2 | RUNN ?[2J\n      | ^^^^');
  });

  test('survives random text', () => {
    const words = [
      'FROM',
      'RUN',
      ' ',
      '\n',
      '\\',
      '"',
      "'",
      '<<EOF',
      'EOF',
      '$',
      '{',
      '}',
      'COPY',
      '--from=',
      '[',
      ']',
      '#',
      '=',
      'a',
      '\t',
      '\r',
    ];
    let seed = 42;
    const random = (limit: number): number => (seed = (seed * 1103515245 + 12345) % 2147483648) % limit;
    for (let run = 0; run < 3000; run++) {
      const text = Array.from({ length: random(30) }, () => words[random(words.length)] ?? '').join('');
      try {
        parseDockerfile(text, 'D');
      } catch (error) {
        assert.equal((error as Error).name, 'BuildError', `${JSON.stringify(text)}: ${String(error)}`);
      }
    }
  });
});

describe('expansion', () => {
  const lookup = (name: string): string | undefined =>
    ({ a: 'A', empty: '', sp: 'x y', path: '/usr/local/lib.tar.gz' })[name];
  const cases: readonly (readonly [string, string])[] = [
    ['$a', 'A'],
    ['${a}b', 'Ab'],
    ['$ab', ''],
    ['\\$a', '$a'],
    ["'$a'", '$a'],
    ['"$a"', 'A'],
    ['"\\$a"', '$a'],
    ['${empty:-d}', 'd'],
    ['${empty-d}', ''],
    ['${none-d}', 'd'],
    ['${none:-$a}', 'A'],
    ['${a:+s}', 's'],
    ['${empty:+s}', ''],
    ['${empty+s}', 's'],
    ['${none+s}', ''],
    ['a b', 'a b'],
    ['$', '$'],
    ['"a\\b"', 'a\\b'],
    ['a\\b', 'ab'],
    ['${none:-"q r"}', 'q r'],
    ['${path#*/}', 'usr/local/lib.tar.gz'],
    ['${path##*/}', 'lib.tar.gz'],
    ['${path%.*}', '/usr/local/lib.tar'],
    ['${path%%.*}', '/usr/local/lib'],
    ['${path%.t?r.*}', '/usr/local/lib'],
    ['${path/l/L}', '/usr/Local/lib.tar.gz'],
    ['${path//l/L}', '/usr/LocaL/Lib.tar.gz'],
    ['${path//\\//:}', ':usr:local:lib.tar.gz'],
    ['${path/$a/x}', '/usr/local/lib.tar.gz'],
    ['${none#x}', ''],
    ['$1$a', 'A'],
    ['${uml}äöü', 'äöü'],
  ];
  for (const [text, expected] of cases)
    test(`${text} gives ${JSON.stringify(expected)}`, () =>
      assert.equal(expandWord(text, lookup, '\\'), expected));
  for (const text of [
    '${a',
    '"x',
    "'x",
    '${a:?',
    '${none:?gone}',
    '${a^}',
    '${',
    '${a:#b}',
    '${a/b}',
    '${a#\\x}',
    '${:a}',
  ])
    test(`${text} is an error`, () =>
      assert.throws(() => expandWord(text, lookup, '\\'), { name: 'ExpansionError' }));
  test('splits into words outside quotes', () =>
    assert.deepEqual(expandWords('$a "b c" $sp', lookup, '\\'), ['A', 'b c', 'x', 'y']));
  test('keeps quotes in here-documents', () =>
    // BuildKit takes away the backslash before any character, not only where a shell would.
    assert.equal(expandHeredoc('"$a" \\$a \\n\n', lookup).text, '"A" $a n\n'));
});
