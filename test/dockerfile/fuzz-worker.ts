import { workerData } from 'node:worker_threads';
import { checkDockerfile, parseDockerfile, resolveStages } from '../../src/dockerfile/index.ts';
import { interpretStage } from '../../executor/interpret.ts';
import { StageState } from '../../executor/stage-state.ts';
import { hostPlatform } from '../../src/oci/index.ts';
import { KilnError } from '../../src/support/index.ts';
import { mutate } from './fuzz-inputs.ts';

/*
 * Feeds mutated Dockerfiles to everything that reads them, until it is ended. The round is told through shared memory, so that one
 * that never ends is known.
 */

const { seed, round } = workerData as { readonly seed: number; readonly round: Int32Array };

for (;;) {
  const current = Atomics.load(round, 0);
  const text = mutate(seed, current);
  try {
    understand(text);
  } catch (error) {
    if (!(error instanceof KilnError))
      throw new Error(`round ${current} of seed ${seed}: ${JSON.stringify(text)}`, { cause: error });
  }
  Atomics.store(round, 0, current + 1);
}

/** All that a build does with a Dockerfile before it looks at files. */
function understand(text: string): void {
  const dockerfile = parseDockerfile(text, 'Dockerfile');
  const options = { buildArguments: new Map([['A', 'x']]), platform: hostPlatform() };
  checkQuietly(dockerfile);
  const graph = resolveStages(dockerfile, { ...options, target: undefined });
  const states = new Map<number, StageState>();
  for (const stage of graph.stages) {
    const parent = stage.base.kind === 'stage' ? states.get(stage.base.index) : undefined;
    const state = parent?.inherit() ?? StageState.fromImage(undefined);
    interpretStage(dockerfile, graph, stage, state, {
      ...options,
      consumed: new Set(),
      ignoredArguments: new Set(),
    });
    states.set(stage.stage.index, state);
  }
}

/** The checks are also made of what cannot be built. */
function checkQuietly(dockerfile: ReturnType<typeof parseDockerfile>): void {
  try {
    checkDockerfile(dockerfile, {
      buildArguments: new Map(),
      platform: hostPlatform(),
      baseOf: () => undefined,
      isIgnored: () => false,
    });
  } catch (error) {
    if (!(error instanceof KilnError)) throw error;
  }
}
