import assert from 'node:assert/strict';
import { test } from 'node:test';
import { interpretStage } from '../../executor/interpret.ts';
import { StageState } from '../../executor/stage-state.ts';
import { parseDockerfile, resolveStages } from '../../src/dockerfile/index.ts';
import { hostPlatform, type ImageConfig } from '../../src/oci/index.ts';
import { durationText } from '../../executor/history-text.ts';

/** The environment of every RUN, by its command, as planning makes it. */
function environments(text: string, target?: string): Map<string, Readonly<Record<string, string>>> {
  const dockerfile = parseDockerfile(text, 'Dockerfile');
  const options = { buildArguments: new Map<string, string>(), platform: hostPlatform() };
  const graph = resolveStages(dockerfile, { ...options, target });
  const states = new Map<number, StageState>();
  const found = new Map<string, Readonly<Record<string, string>>>();
  for (const stage of graph.stages) {
    const parent = stage.base.kind === 'stage' ? states.get(stage.base.index) : undefined;
    const state = parent?.inherit() ?? StageState.fromImage(undefined);
    const { items } = interpretStage(dockerfile, graph, stage, state, {
      ...options,
      consumed: new Set(),
      ignoredArguments: new Set(),
    });
    states.set(stage.stage.index, state);
    for (const item of items)
      if (item.kind === 'step' && item.step.operation.kind === 'run')
        found.set(item.step.operation.argv.at(-1) ?? '', item.step.operation.env);
  }
  return found;
}

test('a stage has the ARGs of the stage that it is FROM, and not those of others', () => {
  const found = environments(
    'FROM a AS one\nARG x=1\nFROM one AS two\nRUN two\nFROM a AS three\nCOPY --from=two /a /a\nRUN three',
  );
  assert.equal(found.get('two')?.x, '1');
  assert.equal(found.get('three')?.x, undefined);
});

test('a here-document alone is the script; with a command it is put behind it', () => {
  const found = environments(
    'FROM a\nRUN <<EOF\none\nEOF\nRUN <<-EOF\n\ttwo\nEOF\nRUN cat <<-EOF && <<B sh\n\tthree\n\tEOF\nfour\nB\n',
  );
  assert.deepEqual([...found.keys()], ['one\n', 'two\n', 'cat <<-EOF && <<B sh\n\tthree\nEOF\nfour\nB']);
});

/** Configuration and history of a Dockerfile's last stage, as planning makes them. */
function outcome(text: string, base?: ImageConfig, buildArguments = new Map<string, string>()) {
  const dockerfile = parseDockerfile(text, 'Dockerfile');
  const options = { buildArguments, platform: hostPlatform() };
  const graph = resolveStages(dockerfile, { ...options, target: undefined });
  const [stage] = graph.stages;
  assert.ok(stage);
  const state = StageState.fromImage(base);
  const { items } = interpretStage(dockerfile, graph, stage, state, {
    ...options,
    consumed: new Set(),
    ignoredArguments: new Set(),
  });
  const history = items.map((item) => (item.kind === 'step' ? item.step.history : item.history).created_by);
  return { config: state.containerConfig(), history };
}

test('the history says what BuildKit says', () => {
  const { history } = outcome(
    [
      'FROM scratch',
      'ARG VERSION=1 NAME',
      'ENV a=1 b="x y"',
      'RUN make $VERSION',
      'RUN ["/bin/x", "y"]',
      'COPY --from=image --chown=1:2 --chmod=0644 a b /dest/',
      'COPY <<EOF /file',
      'text',
      'EOF',
      'WORKDIR sub',
      'LABEL b=1 a="x y"',
      'EXPOSE 90/UDP 80-81',
      'USER nobody',
      'VOLUME ["/a b", "/c"]',
      'CMD echo "hi"',
      'ENTRYPOINT ["/a\\tb", "c\\u001bd"]',
      'SHELL ["/bin/bash", "-c"]',
      'STOPSIGNAL SIGRTMIN+3',
      'HEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 CMD curl -f x',
      'MAINTAINER me',
    ].join('\n'),
    undefined,
    new Map([['NAME', 'n']]),
  );
  assert.deepEqual(history, [
    'ARG VERSION=1 NAME=n',
    'ENV a=1 b=x y',
    'RUN |2 VERSION=1 NAME=n /bin/sh -c make $VERSION # buildkit',
    'RUN |2 VERSION=1 NAME=n /bin/x y # buildkit',
    'COPY --chown=1:2 --chmod=0644 a b /dest/ # buildkit',
    'COPY <<EOF /file # buildkit',
    'WORKDIR /sub',
    'LABEL b=1 a=x y',
    'EXPOSE [80/tcp 81/tcp 90/udp]',
    'USER nobody',
    'VOLUME [/a b /c]',
    'CMD ["/bin/sh" "-c" "echo \\"hi\\""]',
    'ENTRYPOINT ["/a\\tb" "c\\x1bd"]',
    'SHELL [/bin/bash -c]',
    'STOPSIGNAL SIGRTMIN+3',
    'HEALTHCHECK {Test:[CMD-SHELL curl -f x] Interval:1m30s Timeout:500ms StartPeriod:0s StartInterval:0s Retries:3}',
    'MAINTAINER me',
  ]);
});

test('of ENV and ARG with the same name the later one counts, and the image keeps ENV', () => {
  const found = environments('FROM scratch\nENV x=env\nRUN one\nARG x=arg\nRUN two\nENV x=again\nRUN three');
  assert.deepEqual(
    [...found.values()].map(({ x }) => x),
    ['env', 'arg', 'again'],
  );
  assert.deepEqual(outcome('FROM scratch\nENV x=env\nARG x=arg').config.Env?.includes('x=env'), true);
});

test('the order of Env is that of the first definition, and PATH is always there', () => {
  const base: ImageConfig = {
    ...hostPlatform(),
    config: { Env: ['b=1', 'a=2'] },
    rootfs: { type: 'layers', diff_ids: [] },
  };
  const { config } = outcome('FROM base\nENV c=3 b=4\nENV a=5', base);
  assert.deepEqual(config.Env, [
    'b=4',
    'a=5',
    'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    'c=3',
  ]);
  assert.equal(config.WorkingDir, undefined, 'the base has none');
  assert.equal(outcome('FROM scratch\nUSER x').config.WorkingDir, '/');
});

test('durations of the history are written as Go writes them', () => {
  assert.deepEqual([0, 1, 1500, 2e6, 1.5e9, 60e9, 3661e9].map(durationText), [
    '0s',
    '1ns',
    '1.5µs',
    '2ms',
    '1.5s',
    '1m0s',
    '1h1m1s',
  ]);
});

for (const platform of ['linux/amd64/v1/more', 'lin ux', '$none', 'windows/amd64'])
  test(`FROM --platform=${platform} is an error with its line`, () => {
    assert.throws(() => environments(`FROM a\nFROM --platform="${platform}" b\nRUN x`), {
      name: 'BuildError',
      where: 'Dockerfile:2',
    });
  });

test('the ARGs about platforms are there for a stage that declares them, and for FROM', () => {
  const { os, architecture } = hostPlatform();
  const found = environments(
    'FROM --platform=$BUILDPLATFORM a-$TARGETARCH AS one\nARG TARGETPLATFORM\nARG BUILDARCH\nARG TARGETVARIANT\nRUN declared\nFROM b\nCOPY --from=one /a /a\nRUN undeclared',
  );
  assert.equal(found.get('declared')?.TARGETPLATFORM, `${os}/${architecture}`);
  assert.equal(found.get('declared')?.BUILDARCH, architecture);
  assert.deepEqual(Object.keys(found.get('undeclared') ?? {}), ['PATH']);
});
