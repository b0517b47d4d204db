import assert from 'node:assert/strict';
import { chmodSync, chownSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { planOf } from '../support/plan.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { SeededRandom } from '../support/random.ts';
import { plant } from '../support/trees.ts';

/*
 * Random stages in which one thing is changed at a time. Whatever matters to a step changes its key and those of the steps that
 * stand on it, and whatever does not leaves every key as it is. What matters to what is said here in other words than in the code.
 */

/** An instruction, with what its value stands for: the key of the step itself, what steps after it see, or nothing. */
interface Line {
  readonly text: (value: number) => string;
  readonly step: 'run' | 'copy' | 'link' | 'workdir' | undefined;
  /** Steps after it whose keys its value counts in. */
  readonly seenBy: readonly ('run' | 'workdir')[];
  /** Files of the context that it copies. */
  readonly files: readonly string[];
  value: number;
}

type Kind = Omit<Line, 'value'>;

const metadata = (text: Kind['text']): Kind => ({ text, step: undefined, seenBy: [], files: [] });
const copy = (flags: string, files: readonly string[], step: Kind['step'] = 'copy'): Kind => ({
  text: (value) => `COPY ${flags} ${files[0]?.split('/')[0] ?? ''} /to-${value}/`,
  ...{ step, seenBy: [], files },
});

const kinds: readonly Kind[] = [
  { text: (value) => `RUN make ${value}`, step: 'run', seenBy: [], files: [] },
  { text: (value) => `RUN <<EOF\nmake ${value}\nEOF`, step: 'run', seenBy: [], files: [] },
  { text: (value) => `WORKDIR /w/${value}`, step: 'workdir', seenBy: ['run'], files: [] },
  { text: (value) => `ENV E=${value}`, step: undefined, seenBy: ['run'], files: [] },
  { text: (value) => `ARG A=${value}`, step: undefined, seenBy: ['run'], files: [] },
  { text: (value) => `USER ${value}`, step: undefined, seenBy: ['run', 'workdir'], files: [] },
  { text: (value) => `COPY <<EOF /text\n${value}\nEOF`, step: 'copy', seenBy: [], files: [] },
  { text: (value) => `COPY --chown=${value} a /a`, step: 'copy', seenBy: [], files: ['a'] },
  copy('', ['a']),
  copy('', ['dir/b', 'dir/c']),
  copy('--chown=1:2', ['dir/b', 'dir/c']),
  copy('--link', ['a'], 'link'),
  copy('--exclude=c', ['dir/b']),
  metadata((value) => `LABEL l=${value}`),
  metadata((value) => `EXPOSE ${value}`),
  metadata((value) => `CMD ["${value}"]`),
  metadata((value) => `HEALTHCHECK CMD ${value}`),
  metadata((value) => `VOLUME /v${value}`),
  metadata((value) => `# a comment ${value}`),
];

function textOf(lines: readonly Line[]): string {
  return `FROM scratch\n${lines.map(({ text, value }) => text(value)).join('\n')}\n`;
}

/** Which steps, in their order, have other keys when the line changes its value, or the files their content. */
function expected(lines: readonly Line[], changed: Line | undefined, file: string | undefined): boolean[] {
  const outcomes: boolean[] = [];
  let below = false;
  // A later one of the same kind hides what an earlier one says.
  let seen: Line | undefined;
  for (const line of lines) {
    if (line === changed) seen = line;
    else if (seen !== undefined && line.seenBy.length > 0 && nameOf(line) === nameOf(seen)) seen = undefined;
    if (line.step === undefined) continue;
    const sees = seen?.seenBy.some((step) => step === line.step) ?? false;
    const own = line === changed || sees || (file !== undefined && line.files.includes(file));
    outcomes.push(line.step === 'link' ? own : own || below);
    below ||= own;
  }
  return outcomes;
}

function nameOf({ text }: Line): string {
  return text(0);
}

test('a change of what matters, and of nothing else, changes the key of a step and of those that stand on it', async (context) => {
  await using scratch = await temporaryDirectory();
  const seed = Number(process.env.KILN_TEST_SEED ?? Date.now() % 1_000_000);
  context.diagnostic(`seed ${seed}`);
  const seconds = Number(process.env.KILN_FUZZ_SECONDS ?? 4);
  const started = performance.now();
  let rounds = 0;
  for (; rounds < 5 || performance.now() - started < seconds * 1000; rounds++) {
    const random = new SeededRandom(seed + rounds);
    const directory = join(scratch.path, `round-${rounds}`);
    const files: Record<string, string> = { a: 'a', 'dir/b': 'b', 'dir/c': 'c', other: 'o', ignored: 'i' };
    plant(directory, { ...files, '.dockerignore': 'ignored\n' });
    const lines: Line[] = Array.from({ length: 3 + random.below(8) }, () => ({
      ...random.pick(kinds),
      value: 1 + random.below(50),
    }));
    const why = (what: string): string => `seed ${seed + rounds}: ${what}\n${textOf(lines)}`;
    const keys = async (given: Readonly<Record<string, string>> = {}): Promise<string[]> => {
      const stage = (await planOf(textOf(lines), directory, { arguments: given })).at(-1);
      return (stage?.steps ?? []).map(({ key }) => key ?? 'none');
    };
    const before = await keys();

    for (const path of ['a', 'dir', 'dir/b']) {
      utimesSync(join(directory, path), 1_800_000_000 + rounds, 1);
      chownSync(join(directory, path), 1000, 1000);
    }
    plant(directory, { ignored: 'changed', other: 'changed', new: 'n' });
    assert.deepEqual(
      await keys({ UNDECLARED: '1', HTTP_PROXY: 'p' }),
      before,
      why('what matters to nothing'),
    );

    const line = random.pick(lines);
    line.value += 50;
    const after = await keys();
    assert.deepEqual(
      after.map((key, index) => key !== before[index]),
      expected(lines, line, undefined),
      why(`${line.text(line.value)} was another`),
    );

    const file = random.pick(['a', 'dir/b', 'dir/c']);
    if (random.chance(0.5)) chmodSync(join(directory, file), 0o711);
    else plant(directory, { [file]: 'changed' });
    assert.deepEqual(
      (await keys()).map((key, index) => key !== after[index]),
      expected(lines, undefined, file),
      why(`${file} was another`),
    );
  }
  context.diagnostic(`${rounds} rounds`);
});
