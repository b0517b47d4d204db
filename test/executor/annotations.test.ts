import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Annotations } from '../../executor/annotations.ts';

const amd64 = { os: 'linux', architecture: 'amd64' };
const arm64 = { os: 'linux', architecture: 'arm64' };

describe('an annotation', () => {
  test('is of the manifest unless it says otherwise', () => {
    const annotations = new Annotations([
      'org.example.a=1',
      'manifest:org.example.b=x=y',
      'index:org.example.c=3',
      'index,manifest:org.example.d=',
      'manifest[linux/arm64]:org.example.e=5',
    ]);
    assert.deepEqual(Object.fromEntries(annotations.manifest(amd64)), {
      'org.example.a': '1',
      'org.example.b': 'x=y',
      'org.example.d': '',
    });
    assert.equal(annotations.manifest(arm64).get('org.example.e'), '5');
    assert.deepEqual(Object.fromEntries(annotations.index), { 'org.example.c': '3', 'org.example.d': '' });
    assert.equal(annotations.isEmpty, false);
    assert.equal(new Annotations().isEmpty, true);
  });

  test('that is given twice has its last value', () => {
    assert.equal(new Annotations(['a=1', 'a=2']).manifest(amd64).get('a'), '2');
  });

  for (const [entry, why] of [
    ['nothing', /no key, or no value/],
    ['=value', /no key, or no value/],
    ['two words=1', /cannot be read/],
    ['manifest:=1', /cannot be read/],
    ['layer:a=1', /"layer" is neither manifest nor index/],
    ['index[linux/amd64]:a=1', /of no platform/],
    ['manifest-descriptor:a=1', /descriptors/],
  ] as const)
    test(`cannot be "${entry}"`, () => {
      assert.throws(() => new Annotations([entry]), { code: 'E_USAGE', message: why });
    });
});
