import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { expandHeredoc, expandWord, expandWords, parseDockerfile } from '../../src/dockerfile/index.ts';

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
    assert.deepEqual(run.heredocs, [{ name: 'EOF', content: '$a\n', expand: false }]);
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

  test('takes malformed JSON for the shell form', () => {
    for (const [text, form] of [
      ['["a"]', 'exec'],
      ["['a']", 'shell'],
      ['[a', 'shell'],
      ['["a", 1]', 'shell'],
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
    ['FROM a\nRUN --mount=type=cache,target=/x y', /not supported/, 2],
    ['FROM a\nADD https://example.com/x /x', /not supported/, 2],
    ['FROM a\nENV a=1 b', /name=value/, 2],
    ['FROM a\nSHELL x', /JSON list/, 2],
    ['FROM a\nRUN <<EOF\nx', /not ended/, 2],
    ['FROM a\nONBUILD FROM b', /cannot be a trigger/, 2],
    ['FROM a\nHEALTHCHECK --interval=x CMD y', /not a duration/, 2],
    ['# escape=x\nFROM a', /invalid escape/, 1],
    ['FROM a\nUSER a b', /one argument/, 2],
    ['FROM a\nARG 1=2', /name of an ARG/, 2],
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
  const lookup = (name: string): string | undefined => ({ a: 'A', empty: '', sp: 'x y' })[name];
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
  ];
  for (const [text, expected] of cases)
    test(`${text} gives ${JSON.stringify(expected)}`, () =>
      assert.equal(expandWord(text, lookup, '\\'), expected));
  for (const text of ['${a', '"x', "'x", '${a:?', '${none:?gone}', '${a^}', '${'])
    test(`${text} is an error`, () =>
      assert.throws(() => expandWord(text, lookup, '\\'), { name: 'ExpansionError' }));
  test('splits into words outside quotes', () =>
    assert.deepEqual(expandWords('$a "b c" $sp', lookup, '\\'), ['A', 'b c', 'x y']));
  test('keeps quotes in here-documents', () =>
    assert.equal(expandHeredoc('"$a" \\$a \\n\n', lookup, '\\'), '"A" $a \\n\n'));
});
