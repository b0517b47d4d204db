import assert from 'node:assert/strict';

/** A metric as Prometheus would read it. */
export interface MetricFamily {
  readonly type: string;
  readonly help: string;
  /** Values by name with labels, as written. */
  readonly samples: Map<string, number>;
  readonly labels: Set<string>;
}

const suffixes = { histogram: ['_bucket', '_sum', '_count'], summary: ['', '_sum', '_count'] } as const;

/**
 * Reads Prometheus' text format 0.0.4 as strictly as its own parser, and checks the names as `promtool check metrics` does:
 * help for all, `_total` for counters and for nothing else, base units, no type in a name.
 */
export function checkMetrics(text: string): Map<string, MetricFamily> {
  assert.ok(text.endsWith('\n'), 'the last line has to end');
  const families = new Map<string, MetricFamily>();
  let current: { name: string; family: MetricFamily } | undefined;
  let help: { name: string; text: string } | undefined;
  for (const line of text.split('\n')) {
    if (line === '') continue;
    const [, kind, name = '', rest = ''] = /^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$/.exec(line) ?? [];
    if (kind === 'HELP') {
      help = { name, text: rest };
      continue;
    }
    if (kind === 'TYPE') {
      assert.ok(help?.name === name, `${name} has no help`);
      assert.ok(!families.has(name), `${name} occurs twice`);
      assert.match(rest, /^(?:counter|gauge|histogram|summary)$/);
      const family = {
        type: rest,
        help: help.text,
        samples: new Map<string, number>(),
        labels: new Set<string>(),
      };
      families.set(name, family);
      checkName(name, rest);
      current = { name, family };
      continue;
    }
    const sample = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\S+)$/.exec(line);
    assert.ok(sample !== null, `not a line of the format: ${line}`);
    addSample(current, sample[1] ?? '', sample[2] ?? '', sample[3] ?? '');
  }
  return families;
}

function addSample(
  current: { readonly name: string; readonly family: MetricFamily } | undefined,
  name: string,
  labels: string,
  text: string,
): void {
  assert.ok(current !== undefined, `${name} has no type`);
  const { type, samples } = current.family;
  const allowed = type === 'histogram' || type === 'summary' ? suffixes[type] : [''];
  assert.ok(
    allowed.some((suffix) => name === current.name + suffix),
    `${name} is not of ${current.name}`,
  );
  // As Go reads numbers; prom-client writes Nan.
  const value = { nan: NaN, '+inf': Infinity, '-inf': -Infinity }[text.toLowerCase()] ?? Number(text);
  assert.ok(text !== '' && (/^nan$/i.test(text) || !Number.isNaN(value)), `${name} has the value ${text}`);
  const inside = labels.slice(1, -1);
  assert.match(inside, /^(?:(?:^|,)[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*")*$/, `labels of ${name}`);
  for (const [, label = ''] of inside.matchAll(/([a-zA-Z_][a-zA-Z0-9_]*)="/g))
    if (label !== 'le') current.family.labels.add(label);
  assert.ok(!samples.has(name + labels), `${name}${labels} occurs twice`);
  samples.set(name + labels, value);
}

function checkName(name: string, type: string): void {
  assert.equal(name.endsWith('_total'), type === 'counter', `${name} is a ${type}`);
  assert.doesNotMatch(
    name,
    /_(?:counter|gauge|histogram|summary)(?:_|$)/,
    `${name} has its type in its name`,
  );
  assert.doesNotMatch(
    name,
    /_(?:milliseconds|ms|minutes|hours|kilobytes|kb|mb|gb|percent)(?:_|$)/,
    `${name} is not in a base unit`,
  );
}
