import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  type CheckContext,
  checkDockerfile,
  checkRules,
  parseDockerfile,
  rulePage,
} from '../../src/dockerfile/index.ts';
import { hostPlatform } from '../../src/oci/index.ts';

const context: CheckContext = {
  buildArguments: new Map(),
  platform: hostPlatform(),
  baseOf: () => ({ env: new Map([['FROM_BASE', '1']]), hasShell: false, platform: hostPlatform() }),
  isIgnored: (path) => path.startsWith('ignored'),
};

const check = (text: string, changes: Partial<CheckContext> = {}): string[] =>
  checkDockerfile(parseDockerfile(text, 'D'), { ...context, ...changes }).findings.map(
    ({ rule, line }) => `${rule} ${line}`,
  );

describe('build checks', () => {
  const cases: readonly (readonly [string, readonly string[]])[] = [
    ['FROM a\nRUN x', []],
    ['FROM a\nrun x\nRUN y', ['ConsistentInstructionCasing 2']],
    ['from a\nrun x\nRun y', ['ConsistentInstructionCasing 3']],
    ['FROM a\nCOPY ignored/x /x', ['CopyIgnoredFile 2']],
    ['FROM a\nCOPY --from=b ignored /x', []],
    ['FROM a AS x\nFROM b AS x', ['DuplicateStageName 2']],
    ['FROM a\nEXPOSE 127.0.0.1:80:80', ['ExposeInvalidFormat 2']],
    ['FROM a\nEXPOSE 80/TCP', ['ExposeProtoCasing 2']],
    ['FROM a as x', ['FromAsCasing 1']],
    ['from a AS x', ['FromAsCasing 1']],
    ['FROM --platform=linux/s390x a', ['FromPlatformFlagConstDisallowed 1', 'InvalidBaseImagePlatform 1']],
    ['FROM --platform=linux/s390x a AS linux-tools', ['InvalidBaseImagePlatform 1']],
    ['FROM --platform=$BUILDPLATFORM a', []],
    ['FROM --platform=$TARGETPLATFORM a', ['RedundantTargetPlatform 1']],
    ['ARG T\nFROM a:$T', ['InvalidDefaultArgInFrom 2']],
    ['ARG T=1\nFROM a:$T', []],
    ['FROM a\nENTRYPOINT x', ['JSONArgsRecommended 2']],
    ['FROM a\nSHELL ["b"]\nCMD x', []],
    ['FROM a\nENV a b\nLABEL c d', ['LegacyKeyValueFormat 2', 'LegacyKeyValueFormat 3']],
    ['FROM a\nMAINTAINER me', ['MaintainerDeprecated 2']],
    ['FROM a\nCMD ["a"]\nCMD ["b"]', ['MultipleInstructionsDisallowed 2']],
    ['FROM a\nRUN x \\\n\n  y', ['NoEmptyContinuation 3']],
    ['FROM a AS scratch', ['ReservedStageName 1']],
    ['FROM a\nARG API_KEY\nENV DB_PASSWORD=x', ['SecretsUsedInArgOrEnv 2', 'SecretsUsedInArgOrEnv 3']],
    ['FROM a\nENV PUBLIC_KEY=1 TOKEN_FILE=2 MONKEY=3', []],
    ['FROM a AS Build', ['StageNameCasing 1']],
    ['FROM a$NOPE', ['UndefinedArgInFrom 1']],
    ['FROM a\nCOPY $b /c', ['UndefinedVar 2']],
    ['FROM a\nARG b\nCOPY $b $FROM_BASE $PATH /c', []],
    ['FROM a AS x\nENV b=1\nFROM x\nWORKDIR /$b', []],
    ['FROM a AS x\nARG b=1\nFROM x\nWORKDIR /$b', []],
    ['FROM a AS x\nARG b=1\nFROM a\nWORKDIR /$b', ['UndefinedVar 4']],
    ['FROM a\nWORKDIR x\nWORKDIR y', ['WorkdirRelativePath 2']],
    ['FROM a AS x\nWORKDIR /x\nFROM x\nWORKDIR y', []],
  ];
  for (const [text, expected] of cases)
    test(`of ${JSON.stringify(text)} find ${expected.join(', ') || 'nothing'}`, () =>
      assert.deepEqual(check(text), expected));

  test('are told less of a base that is not known', () =>
    assert.deepEqual(check('FROM a\nCOPY $b /c', { baseOf: () => undefined }), []));

  test('suggest the name that was meant', () => {
    const { findings } = checkDockerfile(
      parseDockerfile('FROM a\nARG VERSION\nCOPY $VERSON /c', 'D'),
      context,
    );
    assert.match(findings[0]?.message ?? '', /did you mean \$VERSION\?/);
  });

  test('are left out by the directive, and by a comment before one instruction', () => {
    assert.deepEqual(check('# check=skip=MaintainerDeprecated\nFROM a\nMAINTAINER x'), []);
    assert.deepEqual(check('# check=skip=all\nFROM a\nMAINTAINER x'), []);
    assert.deepEqual(check('FROM a\n# check=skip=LegacyKeyValueFormat\nENV a b\nENV c d'), [
      'LegacyKeyValueFormat 4',
    ]);
  });

  test('that are experimental are made when asked for', () => {
    const text = 'FROM a\n# something else\nARG x';
    assert.deepEqual(check(text), []);
    assert.deepEqual(check(`# check=experimental=all\n${text}`), ['InvalidDefinitionDescription 4']);
  });

  test('fail the build when the directive says so', () => {
    const result = (text: string): boolean => checkDockerfile(parseDockerfile(text, 'D'), context).error;
    assert.equal(result('# check=error=true\nFROM a'), true);
    assert.equal(result('FROM a'), false);
  });

  test('refuse a directive with an unknown rule or option', () => {
    for (const [directive, remedy] of [
      ['skip=MaintainerDepreciated', 'Did you mean MaintainerDeprecated?'],
      ['skp=all', 'Did you mean skip=…?'],
    ] as const)
      assert.throws(() => check(`# check=${directive}\nFROM a`), {
        code: 'E_CHECK_OPTION',
        remedy,
        where: 'D:1',
      });
  });

  test('have the page of their rule', () => {
    assert.equal(
      rulePage('JSONArgsRecommended'),
      'https://docs.docker.com/go/dockerfile/rule/json-args-recommended/',
    );
    assert.equal(
      rulePage('SecretsUsedInArgOrEnv'),
      'https://docs.docker.com/go/dockerfile/rule/secrets-used-in-arg-or-env/',
    );
    for (const rule of Object.values(checkRules)) assert.notEqual(rule.remedy, '');
  });
});
