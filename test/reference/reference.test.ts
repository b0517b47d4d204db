import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { openReferenceGround, type ReferenceGround } from '../support/reference.ts';
import { configCases } from './config-cases.ts';
import { mountCases } from './mount-cases.ts';
import { treeCases as copyCases } from './tree-cases.ts';

/*
 * The language, feature by feature, built by Kiln and by buildah, and the images compared: every path with type, mode, owner,
 * content, links and attributes, and every field of the configuration. Where buildah lacks a feature, it builds the same
 * thing said otherwise; where it does something else, the case says what, and who says that Kiln is right.
 */

const treeCases = [...copyCases, ...mountCases];

let ground: ReferenceGround;
before(async () => {
  ground = await openReferenceGround();
});
after(() => ground[Symbol.asyncDispose]());

describe('files are what the reference makes', () => {
  let found: ReadonlyMap<string, readonly string[]>;
  before(async () => {
    found = await ground.compareTrees(treeCases);
  });
  for (const { name } of treeCases) test(name, () => assert.deepEqual(found.get(name), []));
});

describe('a configuration is what the reference makes', { concurrency: 2 }, () => {
  for (const reference of configCases)
    test(reference.name, async () => assert.deepEqual(await ground.compareConfigs(reference), []));
});

test('every case has a name of its own', () => {
  const names = [...treeCases, ...configCases].map(({ name }) => name);
  assert.deepEqual(names, [...new Set(names)]);
});
