import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parseReference, parseReferencePattern } from '../../src/oci/index.ts';

const digest = `sha256:${'a'.repeat(64)}`;

describe('a pattern of references', () => {
  for (const [pattern, yes, no] of [
    [
      'debian',
      ['debian', 'debian:12', `docker.io/library/debian@${digest}`],
      ['debian-slim', 'team/debian', 'a.b/debian'],
    ],
    [
      'debian:12*',
      ['debian:12', 'debian:12-slim', `debian:12@${digest}`],
      ['debian:11', 'debian', `debian@${digest}`],
    ],
    ['docker.io/library/*', ['debian', 'node:24'], ['team/app', 'docker.io/a/b']],
    ['index.docker.io/library/*', ['debian'], ['team/app']],
    ['team/*', ['team/app'], ['team/app/part', 'other/app', 'a.b/team/app']],
    [
      'registry.example/**',
      ['registry.example/a', 'registry.example/a/b/c:1'],
      ['registry.example.evil/a', 'a.b/registry.example/a'],
    ],
    ['registry.example:5000/a/*', ['registry.example:5000/a/b'], ['registry.example/a/b']],
    ['*.example/app', ['one.example/app'], ['example/app', 'a.two.example.com/app']],
    ['**/secret:*', ['a.b/c/secret:1', 'x/secret'], ['a.b/secrets:1']],
    ['**', ['debian', `a.b/c:1@${digest}`], []],
    [`a.b/c@${digest}`, [`a.b/c@${digest}`, `a.b/c:1@${digest}`], ['a.b/c', 'a.b/c:1']],
    ['a.b/c.d', ['a.b/c.d'], ['a.b/cxd']],
  ] as const)
    test(`${pattern} means what it says`, () => {
      const parsed = parseReferencePattern(pattern);
      for (const name of yes) assert.ok(parsed.matches(parseReference(name)), `${name} matches`);
      for (const name of no) assert.ok(!parsed.matches(parseReference(name)), `${name} does not`);
    });

  for (const pattern of ['*', '', 'a b', 'a//b', '/a', 'a/', 'a:', 'a@', '$x/y'])
    test(`${JSON.stringify(pattern)} is refused`, () => {
      assert.throws(() => parseReferencePattern(pattern), { code: 'E_PATTERN_INVALID' });
    });
});
