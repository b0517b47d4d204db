import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { type LocalBuilds, openLocalBuilds } from '../support/local-builds.ts';
import { warningsOf } from '../support/programs.ts';
import { type CollectedSpan, startCollector } from '../support/trace-collector.ts';

let builds: LocalBuilds;
before(async () => {
  builds = await openLocalBuilds();
});
after(() => builds[Symbol.asyncDispose]());

const dockerfile = `FROM scratch AS made
COPY a /a
FROM scratch
COPY --from=made /a /b
WORKDIR /work
`;

const environment = (url: string): Record<string, string> => ({ OTEL_EXPORTER_OTLP_ENDPOINT: url });

describe('the trace of a build', () => {
  test('has a span for the build, each stage and each step, one below the other', async () => {
    await using collector = await startCollector();
    const context = await builds.context({ a: 'x' });
    const traceparent = `00-${'ab'.repeat(16)}-${'cd'.repeat(8)}-01`;
    const { code } = await builds.build(dockerfile, {
      context,
      env: { ...environment(collector.url), TRACEPARENT: traceparent, OTEL_SERVICE_NAME: 'images' },
    });
    assert.equal(code, 0);
    const named = (pattern: RegExp): CollectedSpan => {
      const found = collector.spans.filter(({ name }) => pattern.test(name));
      assert.equal(found.length, 1, `${pattern}: ${collector.spans.map(({ name }) => name).join(', ')}`);
      return found[0] as CollectedSpan;
    };
    const build = named(/^build context/);
    assert.equal(build.trace, 'ab'.repeat(16));
    assert.equal(build.parent, 'cd'.repeat(8));
    assert.equal(build.service, 'images');
    assert.match(String(build.attributes['kiln.digest']), /^sha256:[0-9a-f]{64}$/);
    const stage = named(/^stage made$/);
    const step = named(/^COPY a \/a$/);
    assert.equal(stage.parent, build.id);
    assert.equal(step.parent, stage.id);
    assert.equal(step.attributes['kiln.step.outcome'], 'ran');
    assert.equal(step.attributes['kiln.line'], 2n);
    assert.equal(step.attributes['kiln.cache.outcome'], 'miss');
    assert.equal(named(/^WORKDIR/).parent, named(/^stage stage-1$/).id);
    for (const span of collector.spans) {
      assert.ok(span.end >= span.start, span.name);
      const parent = collector.spans.find(({ id }) => id === span.parent);
      if (parent !== undefined) assert.ok(span.start >= parent.start && span.end <= parent.end, span.name);
    }
    assert.equal(collector.headers[0]?.path, '/v1/traces');
  });

  test('says which step failed, and hides credentials', async () => {
    await using collector = await startCollector();
    const { code } = await builds.build('FROM scratch\nADD http://user:hidden@127.0.0.1:1/file /\n', {
      env: environment(collector.url),
    });
    assert.notEqual(code, 0);
    const build = collector.spans.find(({ name }) => name.startsWith('build'));
    assert.equal(build?.failed, true);
    const all = JSON.stringify(collector.spans, (_key, value: unknown) =>
      typeof value === 'bigint' ? Number(value) : value,
    );
    assert.doesNotMatch(all, /hidden/);
  });

  test('is not made, and nothing is asked for, unless the environment wants it', async () => {
    await using collector = await startCollector();
    for (const env of [{ OTEL_SDK_DISABLED: 'true' }, { OTEL_TRACES_EXPORTER: 'none' }]) {
      const { code } = await builds.build('FROM scratch\nCOPY .keep /\n', {
        env: { ...environment(collector.url), ...env },
      });
      assert.equal(code, 0);
    }
    assert.deepEqual(collector.headers, []);
  });

  test('that cannot be sent is one warning, and the build succeeds', async () => {
    await using collector = await startCollector(400);
    const ended = await builds.build('FROM scratch\nCOPY .keep /\n', { env: environment(collector.url) });
    assert.equal(ended.code, 0);
    assert.equal(
      warningsOf(ended).filter((text) => /trace of the build could not be sent/.test(text)).length,
      1,
    );
  });

  for (const [name, value] of [
    ['OTEL_EXPORTER_OTLP_PROTOCOL', 'grpc'],
    ['OTEL_TRACES_EXPORTER', 'zipkin'],
    ['OTEL_TRACES_SAMPLER', 'sometimes'],
  ] as const)
    test(`that ${name}=${value} asks for is an error that says so`, async () => {
      const ended = await builds.build('FROM scratch\nCOPY .keep /\n', {
        env: { ...environment('http://127.0.0.1:1'), [name]: value },
      });
      assert.equal(ended.code, 2);
      assert.match(ended.messages, new RegExp(value));
    });
});
