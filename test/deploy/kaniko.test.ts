import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { Command } from 'commander';
import packageJson from '../../package.json' with { type: 'json' };
import { executorProgram } from '../../executor/cli.ts';
import { warmerProgram } from '../../warmer/cli.ts';

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

interface Row {
  readonly flag: string;
  readonly verdict: string;
  readonly remark: string;
}

/** The rows of the table below a heading. */
function rowsBelow(heading: string): Row[] {
  const section = page.split(/^## /m).find((text) => text.startsWith(heading)) ?? '';
  return [...section.matchAll(/^\| `--([A-Za-z-]+)` +\| ([a-z ]+?) +\| (.*?) *\|$/gm)].map(
    ([, flag = '', verdict = '', remark = '']) => ({ flag, verdict, remark }),
  );
}

/** The flags of the command that runs when none is named. */
function ownFlags(program: Command, name: string): Set<string> {
  const command = program.commands.find((one) => one.name() === name);
  return new Set(command?.options.map(({ long }) => long?.slice(2) ?? ''));
}

const { signal } = new AbortController();

describe('the page for those who come from kaniko', () => {
  for (const [heading, flags, own] of [
    [
      'Flags of the executor',
      [...kaniko.executor, ...kaniko.fork],
      ownFlags(executorProgram(signal), 'build'),
    ],
    [
      'Flags of the warmer',
      kaniko.warmer,
      ownFlags(
        warmerProgram(signal, () => undefined),
        'once',
      ),
    ],
  ] as const) {
    const rows = rowsBelow(heading);

    test(`${heading}: every one of kaniko's is named once, in order`, () => {
      assert.deepEqual(
        rows.map(({ flag }) => flag),
        [...flags].sort((a, b) => (a.toLowerCase() < b.toLowerCase() ? -1 : 1)),
      );
    });

    for (const { flag, verdict } of rows)
      test(`${heading}: --${flag} is as the page says, ${verdict}`, () => {
        assert.ok(['same', 'differs', 'not yet', 'not needed'].includes(verdict), verdict);
        assert.equal(
          own.has(flag),
          verdict === 'same' || verdict === 'differs',
          `change the line of --${flag} in docs/kaniko.md`,
        );
      });

    test(`${heading}: what differs, or has no use, is explained`, () => {
      for (const { flag, verdict, remark } of rows)
        if (verdict === 'differs') assert.notEqual(remark, '', flag);
      for (const { remark } of rows)
        for (const [, instead = ''] of remark.matchAll(/`--([a-z-]+)/g)) assert.ok(own.has(instead), instead);
    });
  }

  test('the flags of the fork are marked as such', () => {
    const marked = rowsBelow('Flags of the executor').filter(({ remark }) => remark.startsWith('*fork*'));
    assert.deepEqual(
      marked.map(({ flag }) => flag),
      kaniko.fork,
    );
  });

  test('names the images of this version, and pages that are there', () => {
    const images = [...page.matchAll(/`registry\.example\/kiln\/(\w+):([^`]+)`/g)];
    assert.equal(images.length, 3);
    for (const [, , tag] of images) assert.equal(tag?.replace('-debug', ''), packageJson.version);
    for (const [, link = ''] of page.matchAll(/\]\((?!https:)([^)#]+)/g))
      assert.ok(existsSync(join(root, 'docs', link)), link);
  });
});
