import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { type Manifest, readManifests } from '../support/kubernetes.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { promtool } from '../support/promtool.ts';

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly annotations: Readonly<Record<string, string>>;
  readonly labels: Readonly<Record<string, string>>;
}
interface PrometheusRule extends Manifest {
  readonly spec: { readonly groups: readonly { readonly rules: readonly Rule[] }[] };
}

const found = readManifests('deploy/prometheus-operator.yaml').find(({ kind }) => kind === 'PrometheusRule');
assert.ok(found !== undefined);
const { spec } = found as PrometheusRule;
const rules = spec.groups.flatMap((group) => group.rules);

/** Series over time as promtool writes them, for instance `kiln_ready{node="a"}`: `0x60`. */
type Series = Readonly<Record<string, string>>;

const both = ['a', 'b'] as const;
const on = (metric: string, values: Readonly<Record<string, string>>): Series =>
  Object.fromEntries(Object.entries(values).map(([node, value]) => [`${metric}{node="${node}"}`, value]));
const pulls = (values: Readonly<Record<string, string>>): Series =>
  Object.fromEntries(
    Object.entries(values).flatMap(([result, value]) =>
      both.map((node) => [
        `kiln_warm_pulls_total{registry="registry.example",result="${result}",node="${node}"}`,
        value,
      ]),
    ),
  );
const bases = (values: Readonly<Record<string, string>>): Series =>
  Object.fromEntries(
    Object.entries(values).map(([result, value]) => [
      `kiln_cache_requests_total{store="base",result="${result}",node="a"}`,
      value,
    ]),
  );

/** For each alert what happens, and how many alerts that makes after three hours; one sample a minute. */
const cases: readonly (readonly [alert: string, what: string, series: Series, alerts: number])[] = [
  ['KilnWarmerDown', 'one does not answer', on('up', { a: '1x180', b: '0x180' }), 1],
  ['KilnWarmerDown', 'one restarts', on('up', { a: '1x180', b: '1x90 0x5 1x90' }), 0],
  ['KilnWarmerNotReady', 'one never gets ready', on('kiln_ready', { a: '1x180', b: '0x180' }), 1],
  ['KilnWarmerNotReady', 'all are', on('kiln_ready', { a: '1x180', b: '1x180' }), 0],
  [
    'KilnConfigurationRejected',
    'many nodes reject one',
    on('kiln_config_last_reload_successful', { a: '0x180', b: '0x180' }),
    1,
  ],
  [
    'KilnConfigurationRejected',
    'all take it',
    on('kiln_config_last_reload_successful', { a: '1x180', b: '1x180' }),
    0,
  ],
  [
    'KilnRegistryFailing',
    'a registry is away',
    pulls({ failed: '0+1x180', fresh: '5x180', pulled: '1x180', skipped_disk: '0x180' }),
    1,
  ],
  ['KilnRegistryFailing', 'one in ten fails', pulls({ failed: '0+1x180', fresh: '0+9x180' }), 0],
  ['KilnRegistryFailing', 'nothing is asked', pulls({ failed: '7x180', fresh: '9x180' }), 0],
  ['KilnRegistryRateLimited', 'a registry limits', pulls({ rate_limited: '0+0.1x180' }), 1],
  ['KilnRegistryRateLimited', 'none does', pulls({ rate_limited: '4x180' }), 0],
  [
    'KilnImagesStale',
    'an image is old everywhere',
    on('kiln_warm_oldest_refresh_age_seconds', { a: '90000+60x180', b: '90000+60x180' }),
    1,
  ],
  ['KilnImagesStale', 'all are fresh', on('kiln_warm_oldest_refresh_age_seconds', { a: '900x180' }), 0],
  [
    'KilnVolumeFull',
    'a disk is full',
    {
      ...on('kiln_volume_free_bytes', { a: '5x180', b: '50x180' }),
      ...on('kiln_volume_size_bytes', { a: '100x180', b: '100x180' }),
    },
    1,
  ],
  [
    'KilnPruneFailing',
    'it fails every time',
    { 'kiln_gc_runs_total{result="failed",node="a"}': '0+0.1x180' },
    1,
  ],
  ['KilnPruneFailing', 'it failed once', { 'kiln_gc_runs_total{result="failed",node="a"}': '0x90 1x90' }, 0],
  ['KilnBasesMissed', 'half is missed', bases({ hit: '0+1x180', miss: '0+1x180' }), 1],
  ['KilnBasesMissed', 'little is missed', bases({ hit: '0+20x180', miss: '0+1x180' }), 0],
  ['KilnBasesMissed', 'hardly anything is built', bases({ hit: '0+0.01x180', miss: '0+0.1x180' }), 0],
];

describe('the alerts', () => {
  test('are rules that Prometheus can read', async () => {
    await using scratch = await temporaryDirectory();
    const file = join(scratch.path, 'rules.yaml');
    await writeFile(file, JSON.stringify(spec));
    assert.match(
      await promtool(['check', 'rules', file]),
      new RegExp(`SUCCESS: ${rules.length} rules found`),
    );
  });

  test('each fire for what they are made for, and not otherwise', async () => {
    await using scratch = await temporaryDirectory();
    await writeFile(join(scratch.path, 'rules.yaml'), JSON.stringify(spec));
    for (const { alert } of rules)
      assert.ok(
        cases.some(([name]) => name === alert),
        `${alert} has a case`,
      );
    const tests = cases.map(([alert, what, series, alerts]) => ({
      name: `${alert}, when ${what}`,
      interval: '1m',
      input_series: Object.entries(series).map(([name, values]) => ({
        series: name.replace(/^up\{/, 'up{job="kiln/kiln-warmer",'),
        values,
      })),
      promql_expr_test: [
        {
          expr: `count(ALERTS{alertname="${alert}",alertstate="firing"}) or vector(0)`,
          eval_time: '3h',
          exp_samples: [{ labels: '{}', value: alerts }],
        },
      ],
    }));
    const file = join(scratch.path, 'tests.yaml');
    await writeFile(file, JSON.stringify({ rule_files: ['rules.yaml'], evaluation_interval: '1m', tests }));
    assert.match(await promtool(['test', 'rules', file]), /SUCCESS/);
  });

  test('say in a sentence what is wrong, and what to look at', () => {
    for (const { alert, annotations, labels } of rules) {
      assert.match(annotations.summary ?? '', /^.{20,100}\.$/, alert);
      assert.match(annotations.description ?? '', /^.{20,160}\.$/, alert);
      assert.match(labels.severity ?? '', /^(info|warning)$/, alert);
    }
  });
});
