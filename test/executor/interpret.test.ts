import assert from 'node:assert/strict';
import { test } from 'node:test';
import { interpretStage } from '../../executor/interpret.ts';
import { StageState } from '../../executor/stage-state.ts';
import { parseDockerfile, resolveStages } from '../../src/dockerfile/index.ts';
import { hostPlatform } from '../../src/oci/index.ts';

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
    const { items } = interpretStage(dockerfile, graph, stage, state, { ...options, consumed: new Set() });
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
