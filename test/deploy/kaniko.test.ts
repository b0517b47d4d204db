import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { Command } from 'commander';
import packageJson from '../../package.json' with { type: 'json' };
import { executorProgram } from '../../executor/cli.ts';
import { executorFlags } from '../../executor/kaniko-flags.ts';
import { withTables } from '../../scripts/kaniko-flags.ts';
import { warmerProgram } from '../../warmer/cli.ts';
import { warmerFlags } from '../../warmer/kaniko-flags.ts';

const root = join(import.meta.dirname, '../..');
const page = readFileSync(join(root, 'docs/kaniko.md'), 'utf8');

/** The flags of kaniko 1.24 (pkg cmd/executor, cmd/warmer), deprecated ones included, and those that its fork has more. */
const kaniko = {
  executor: [
    ...['bucket', 'build-arg', 'cache', 'cache-copy-layers', 'cache-dir', 'cache-repo', 'cache-run-layers'],
    ...['cache-ttl', 'cleanup', 'compressed-caching', 'compression', 'compression-level', 'context'],
    ...['context-sub-path', 'custom-platform', 'customPlatform', 'destination', 'digest-file', 'dockerfile'],
    ...['force', 'force-build-metadata', 'git', 'ignore-path', 'ignore-var-run', 'image-download-retry'],
    ...[
      'image-fs-extract-retry',
      'image-name-tag-with-digest-file',
      'image-name-with-digest-file',
      'insecure',
    ],
    ...[
      'insecure-pull',
      'insecure-registry',
      'kaniko-dir',
      'label',
      'log-format',
      'log-timestamp',
      'no-push',
    ],
    ...['no-push-cache', 'oci-layout-path', 'push-ignore-immutable-tag-errors', 'push-retry'],
    ...['registry-certificate', 'registry-client-cert', 'registry-map', 'registry-mirror', 'reproducible'],
    ...['single-snapshot', 'skip-default-registry-fallback', 'skip-push-permission-check', 'skip-tls-verify'],
    ...['skip-tls-verify-pull', 'skip-tls-verify-registry', 'skip-unused-stages', 'snapshot-mode'],
    ...['snapshotMode', 'tar-path', 'tarPath', 'target', 'use-new-run', 'verbosity', 'whitelist-var-run'],
  ],
  fork: [
    'annotation',
    'credential-helpers',
    'image-format',
    'materialize',
    'pre-cleanup',
    'preserve-context',
    'sandbox',
    'secret',
  ],
  warmer: [
    ...[
      'build-arg',
      'cache-dir',
      'cache-ttl',
      'customPlatform',
      'dockerfile',
      'force',
      'image',
      'insecure-pull',
    ],
    ...['insecure-registry', 'log-format', 'log-timestamp', 'registry-certificate', 'registry-client-cert'],
    ...['registry-map', 'registry-mirror', 'skip-default-registry-fallback', 'skip-tls-verify-pull'],
    ...['skip-tls-verify-registry', 'verbosity'],
  ],
};

/** The flags of the command that runs when none is named. */
function ownFlags(program: Command, name: string): Set<string> {
  const command = program.commands.find((one) => one.name() === name);
  return new Set(command?.options.map(({ long }) => long?.slice(2) ?? ''));
}

const { signal } = new AbortController();

const programs = [
  {
    name: 'executor',
    theirs: [...kaniko.executor, ...kaniko.fork],
    table: executorFlags,
    own: ownFlags(executorProgram(signal), 'build'),
  },
  {
    name: 'warmer',
    theirs: kaniko.warmer,
    table: warmerFlags,
    own: ownFlags(
      warmerProgram(signal, () => undefined),
      'once',
    ),
  },
];

for (const { name, theirs, table, own } of programs)
  describe(`the ${name}'s flags that are kaniko's`, () => {
    test('are all in the table, each once', () => {
      assert.deepEqual(table.map((flag) => flag.name).sort(), [...theirs].sort());
    });

    for (const flag of table)
      test(`--${flag.name} is taken, or refused with what to use`, () => {
        if (flag.verdict === 'respelt') assert.ok(own.has(flag.remark ?? ''), flag.remark);
        else assert.equal(own.has(flag.name), flag.verdict !== 'not yet', flag.name);
        if (flag.verdict === 'not yet') return;
        if (flag.verdict !== 'same') assert.notEqual(flag.remark ?? '', '');
        for (const [, instead = ''] of (flag.remark ?? '').matchAll(/`--([a-z-]+)/g))
          assert.ok(own.has(instead), instead);
      });
  });

describe('the page for those who come from kaniko', () => {
  test('has the tables that the code has', () => {
    assert.equal(page, withTables(page), 'npm run flags');
  });

  test('marks the flags of the fork as such', () => {
    const marked = executorFlags.filter(({ fork }) => fork === true).map(({ name }) => name);
    assert.deepEqual(marked, kaniko.fork);
  });

  test('names the images of this version, and pages that are there', () => {
    const images = [...page.matchAll(/`registry\.example\/kiln\/(\w+):([^`]+)`/g)];
    assert.equal(images.length, 3);
    for (const [, , tag] of images) assert.equal(tag?.replace('-debug', ''), packageJson.version);
    for (const [, link = ''] of page.matchAll(/\]\((?!https:)([^)#]+)/g))
      assert.ok(existsSync(join(root, 'docs', link)), link);
  });
});
