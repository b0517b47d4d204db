import type { SeededRandom } from './random.ts';

/** What the context of a random Dockerfile holds. */
const files = ['a', 'b', 'dir/c', 'dir/d.txt', 'dir/sub/e', 'dir/sub/f.txt'];

/** A Dockerfile that can be built on an image with a shell. */
export function randomDockerfile(random: SeededRandom, base: string): string {
  const stages = 1 + random.below(3);
  const lines: string[] = ['ARG OUTER=outer'];
  for (let stage = 0; stage < stages; stage++) {
    const from = stage > 0 && random.chance(0.4) ? `stage-${random.below(stage)}` : undefined;
    const image = from ?? base;
    lines.push(`FROM ${image} AS stage-${stage}`, `COPY a /made-${stage}`);
    for (let count = 1 + random.below(4); count > 0; count--) lines.push(randomInstruction(random, stage));
  }
  return `${lines.join('\n')}\n`;
}

function randomInstruction(random: SeededRandom, stage: number): string {
  const name = `n${random.below(5)}`;
  const flags = [
    ...(random.chance(0.2) ? ['--chown=12:34'] : []),
    ...(random.chance(0.2) ? [`--chmod=${random.pick(['640', '+x', 'u=rwX,go=rX'])}`] : []),
    ...(random.chance(0.3) ? ['--link'] : []),
    ...(random.chance(0.2) ? [`--exclude=${random.pick(['*.txt', '**/f.txt', 'sub'])}`] : []),
  ].join(' ');
  switch (random.below(9)) {
    case 0:
      return `RUN echo ${random.below(1000)} > /${name}-ran && mkdir -p /made/${name}`;
    case 1:
      return `ENV ${name.toUpperCase()}=${random.below(100)}`;
    case 2:
      return `ARG ${name}=${random.below(100)}\nRUN echo $${name} > /arg-${name}`;
    case 3:
      return `WORKDIR ${random.pick(['/w', 'x', `/w/${name}`])}`;
    case 4:
      return `LABEL ${name}=${random.below(100)}`;
    case 5:
      return `COPY ${flags} --parents ${random.pick(['dir/**/*.txt', 'dir/./sub', 'a'])} /parents-${name}/`;
    case 6: {
      if (stage === 0) return `COPY ${flags} dir /dir-${name}`;
      // Each stage has the file of its number; only those that are made from the first one have its file.
      const source = random.below(stage);
      return `COPY ${flags} --from=stage-${source} /made-${source} /from-${name}/`;
    }
    case 7:
      return `ADD ${flags} ${random.pick(files)} ${random.pick(files)} /to-${name}/`;
    default:
      return `COPY ${flags} <<EOF /doc-${name}\n${random.below(100)} $OUTER\nEOF`;
  }
}

/** The files that such Dockerfiles copy, with contents of their own. */
export function randomContext(random: SeededRandom): Record<string, string> {
  return Object.fromEntries(files.map((path) => [path, `${path} ${random.below(1000)}`]));
}
