import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { Ajv } from 'ajv';
import { hostPlatform, parseReference } from '../../src/oci/index.ts';
import { type Configuration, parseConfiguration } from '../../warmer/daemon/configuration.ts';
import { configurationSchema } from '../../warmer/daemon/configuration-schema.ts';
import { ConfigurationError } from '../../warmer/daemon/configuration-problems.ts';

const path = '/etc/kiln/warmer.yaml';

function parse(...lines: readonly string[]): Configuration {
  return parseConfiguration(path, lines.join('\n'));
}

/** `line field` of every mistake, and the words. */
function mistakes(...lines: readonly string[]): { places: string[]; text: string } {
  try {
    parse(...lines);
  } catch (error) {
    assert.ok(error instanceof ConfigurationError, String(error));
    assert.equal(error.code, 'E_CONFIGURATION');
    const places = error.problems.map(({ line, field }) => `${line} ${field}`);
    return { places, text: error.message };
  }
  throw new Error('it was accepted');
}

describe('a configuration', () => {
  for (const [what, lines, places, says] of [
    [
      'an unknown field',
      ['images:', '- reference: a:1', '  refrsh: 5m'],
      ['3 images[0].refrsh'],
      /Did you mean refresh/,
    ],
    ['an unknown field at the top', ['imges: []'], ['1 imges'], /Did you mean images/],
    ['a field like no other', ['disk:', '  zzz: 1'], ['2 disk.zzz'], /There are: maxSize, minFree/],
    ['a reference that is none', ['images:', '- debian', '- Foo/Bar:x:y'], ['3 images[1]'], /lower case|tag/],
    ['an image without reference', ['images:', '- pin: true'], ['2 images[0]'], /reference is missing/],
    ['a duration without unit', ['refresh: "15"'], ['1 refresh'], /not a duration.*90m/],
    ['an interval that is too short', ['refresh: 1ms'], ['1 refresh'], /too short/],
    ['a number where a text is needed', ['refresh: 15'], ['1 refresh'], /must be a text, not 15/],
    [
      'a cron expression that is none',
      ['images:', '- {reference: a, cron: "61 * * * *"}'],
      ['2 images[0].cron'],
      /cron expression.*minute/,
    ],
    [
      'a cron expression that never comes',
      ['images:', '- {reference: a, cron: "0 0 30 2 *"}'],
      ['2 images[0].cron'],
      /never comes/,
    ],
    [
      'an interval and cron together',
      ['images:', '- reference: a', '  refresh: 1h', '  cron: "0 3 * * *"'],
      ['4 images[0].cron'],
      /Keep one/,
    ],
    [
      'the same image twice',
      ['images:', '- debian', '- docker.io/library/debian:latest'],
      ['3 images[1]'],
      /images\[0\] is the same/,
    ],
    ['a platform that is none', ['platforms: [linux/amd64/x/y]'], ['1 platforms[0]'], /linux\/arm64/],
    ['no platforms at all', ['platforms: []'], ['1 platforms'], /list is empty/],
    ['a size that is none', ['disk: {maxSize: lots}'], ['1 disk.maxSize'], /512MB/],
    ['more than the whole disk', ['disk: {minFree: 120%}'], ['1 disk.minFree'], /more than the whole/],
    ['a water mark in bytes', ['disk: {highWaterMark: 10GB}'], ['1 disk.highWaterMark'], /percentage.*80%/],
    [
      'water marks the wrong way round',
      ['disk:', '  highWaterMark: 50%', '  lowWaterMark: 60%'],
      ['3 disk.lowWaterMark'],
      /below highWaterMark/,
    ],
    [
      'a high water mark below the usual low one',
      ['disk:', '  highWaterMark: 70%'],
      ['2 disk.highWaterMark'],
      /75%/,
    ],
    [
      'a lone star as pattern',
      ['onDemand: {allow: ["*"]}'],
      ['1 onDemand.allow[0]'],
      /\*\* alone is everything/,
    ],
    [
      'a repository with a tag',
      ['cacheRepositories: [{repository: "a.b/c:1"}]'],
      ['1 cacheRepositories[0].repository'],
      /repository alone/,
    ],
    [
      'a registry by address',
      ['registries:', '- host: https://a.b'],
      ['2 registries[0].host'],
      /without https/,
    ],
    ['a registry twice', ['registries:', '- host: a.b', '- host: a.b'], ['3 registries[1].host'], /twice/],
    [
      'a certificate without key',
      ['registries:', '- host: a.b', '  clientCertificate: x'],
      ['3 registries[0].clientCertificate'],
      /together/,
    ],
    ['an address to listen on that is none', ['listen: {http: 9090}'], ['1 listen.http'], /text/],
    ['a port that is none', ['listen: {http: ":99999"}'], ['1 listen.http'], /:9456/],
    ['a concurrency of none', ['concurrency: {images: 0}'], ['1 concurrency.images'], /from 1 to/],
    ['a time zone that is none', ['timeZone: Mars/Olympus'], ['1 timeZone'], /Europe\/Berlin/],
    ['a variable', ['images:', '- reference: ${REGISTRY}/a'], ['2 images[0].reference'], /not expanded/],
    ['yes for true', ['images:', '- {reference: a, pin: yes}'], ['2 images[0].pin'], /true or false/],
    ['a list in place of a map', ['disk: []'], ['1 disk'], /map of fields/],
    ['nothing', [''], ['1 '], /empty/],
    ['what is not YAML', ['images: [a', 'refresh: 1h'], ['2 '], /not YAML/],
    ['a field twice', ['refresh: 1h', 'refresh: 2h'], ['2 '], /unique/],
    ['two documents', ['refresh: 1h', '---', 'refresh: 2h'], ['2 '], /not YAML/],
    ['a list at the top', ['- debian'], ['1 '], /map of fields/],
  ] as const)
    test(`with ${what} is refused by line and field, with a remedy`, () => {
      const found = mistakes(...lines);
      assert.deepEqual([...new Set(found.places)], [...places], found.text);
      assert.match(found.text, says);
      assert.match(found.text, /^\/etc\/kiln\/warmer\.yaml has /);
    });

  test('tells of all its mistakes at once, in the order of lines', () => {
    const { places, text } = mistakes(
      'refresh: soon',
      'images:',
      '- reference: upper/CASE',
      '  pinn: true',
      '- debian',
      'disk: {minFree: 1%, maxSze: 1GB}',
      'onDemand: {allow: ["*", "a b"]}',
    );
    assert.deepEqual(places, [
      '1 refresh',
      '3 images[0].reference',
      '4 images[0].pinn',
      '6 disk.maxSze',
      '7 onDemand.allow[0]',
      '7 onDemand.allow[1]',
    ]);
    assert.match(text, /has 6 mistakes/);
  });

  test('that stands for millions of nodes is refused', () => {
    const lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x]'];
    for (let level = 1; level < 12; level++)
      lines.push(`a${level}: &a${level} [${Array.from({ length: 9 }, () => `*a${level - 1}`).join(', ')}]`);
    assert.match(mistakes(...lines).text, /alias/i);
  });

  test('that is empty but for braces has sensible defaults', () => {
    const { images, disk, onDemand, adoption, concurrency, listen, byDefault } = parse('{}');
    assert.deepEqual(images, []);
    assert.deepEqual(byDefault, { refresh: { kind: 'interval', seconds: 900 }, pullSecret: undefined });
    assert.equal(disk.highWaterMark, 0.8);
    assert.equal(disk.lowWaterMark, 0.75);
    assert.deepEqual(disk.minFree, { share: 0.05 });
    assert.equal(onDemand.enabled, true);
    assert.deepEqual(onDemand.allow, [], 'nothing is allowed unless it is said');
    assert.equal(adoption.limit, 20);
    assert.deepEqual(concurrency, { images: 4, layers: 6, unpack: 2 });
    assert.deepEqual(listen, { socket: true, http: { host: undefined, port: 9456 } });
  });

  test('gives images what they do not say themselves, and finds paths from its directory', () => {
    const { images, dockerfiles } = parse(
      'platforms: [linux/arm64]',
      'refresh: 1h',
      'timeZone: Europe/Berlin',
      'pullSecret: secrets/all',
      'images:',
      '- debian',
      '- {reference: "a.b/c:1", platforms: [linux/amd64], cron: "0 3 * * *", pin: true, pullSecret: /own}',
      'dockerfiles: [{path: app/Dockerfile, buildArgs: {VERSION: "${X}"}}]',
    );
    const [first, second] = images;
    assert.deepEqual(first, {
      reference: parseReference('debian'),
      platforms: [{ os: 'linux', architecture: 'arm64' }],
      pin: false,
      refresh: { kind: 'interval', seconds: 3600 },
      pullSecret: '/etc/kiln/secrets/all',
    });
    assert.deepEqual(second?.refresh, { kind: 'cron', expression: '0 3 * * *', timeZone: 'Europe/Berlin' });
    assert.equal(second?.pullSecret, '/own');
    assert.equal(dockerfiles[0]?.path, '/etc/kiln/app/Dockerfile');
    assert.equal(
      dockerfiles[0]?.buildArguments.get('VERSION'),
      '${X}',
      'a build argument may be what it likes',
    );
  });

  test('is for the platform of the machine when it names none', () => {
    assert.deepEqual(parse('images: [debian]').images[0]?.platforms, [hostPlatform()]);
  });
});

describe('the documentation', () => {
  const text = readFileSync(join(import.meta.dirname, '../../docs/warmer-daemon.md'), 'utf8');
  const example = /```yaml\n(.*?)```/s.exec(text)?.[1] ?? '';

  test('has an example that is valid', () => {
    assert.equal(parse(example).images.length, 3);
  });

  test('names every field', () => {
    const missing = fieldsOf(configurationSchema).filter((name) => !new RegExp(`\\b${name}:`).test(example));
    assert.deepEqual(missing, []);
  });
});

/** The names of all fields of a schema. */
function fieldsOf(schema: object): string[] {
  const { properties = {}, items } = schema as { properties?: Record<string, object>; items?: object };
  const inside = [...Object.values(properties), ...(items === undefined ? [] : [items])];
  return [...Object.keys(properties), ...inside.flatMap(fieldsOf)];
}

describe('the published schema', () => {
  const published = readFileSync(join(import.meta.dirname, '../../deploy/warmer.schema.json'), 'utf8');

  test('is that of the code (npm run schema writes it)', () => {
    assert.equal(published, `${JSON.stringify(configurationSchema, undefined, 2)}\n`);
  });

  test('can be used by an ordinary validator, which finds the same fields', () => {
    const validate = new Ajv({ strict: false, validateFormats: false }).compile(
      JSON.parse(published) as object,
    );
    assert.equal(validate({ images: ['debian', { reference: 'a', pin: true }] }), true);
    assert.equal(validate({ images: [{ reference: 'a', pinn: true }] }), false);
    assert.equal(validate({ images: [{ pin: true }] }), false);
  });
});
