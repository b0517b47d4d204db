import { spawn } from 'node:child_process';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { formatBytes, formatSeconds, formatTable, type ProgressEvent } from '../src/support/index.ts';
import { debianTar } from '../test/support/debian.ts';
import { pushTestImage } from '../test/support/images.ts';
import { startRegistry } from '../test/support/registry.ts';

/** npm run demo: warm a base image, build on it, build again, and tell what each run did. */
const root = join(import.meta.dirname, '..');
const scratch = await mkdtemp(join(tmpdir(), 'kiln-demo-'));

interface Outcome {
  readonly events: readonly ProgressEvent[];
  readonly seconds: number;
}

/** Runs one of Kiln's programs and collects its progress events. */
async function kiln(program: 'executor' | 'warmer', args: readonly string[]): Promise<Outcome> {
  console.log(`$ ${program} ${args.map((word) => word.replace(scratch, '$DEMO')).join(' ')}`);
  const started = performance.now();
  const child = spawn(join(root, 'bin', program), [...args, '--log-format', 'json'], {
    stdio: ['ignore', 'inherit', 'pipe'],
  });
  let text = '';
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  const seconds = (performance.now() - started) / 1000;
  if (code !== 0) throw new Error(`${program} ended with ${String(code)}:\n${text}`);
  const events = text
    .split('\n')
    .flatMap((line) => (line.startsWith('{') ? [JSON.parse(line) as ProgressEvent] : []));
  return { events, seconds };
}

function bytes(events: readonly ProgressEvent[], direction: 'pull' | 'push'): number {
  let sum = 0;
  for (const event of events)
    if (event.type === 'transfer' && event.done && event.direction === direction) sum += event.bytes;
  return sum;
}

const totals: string[][] = [];

function report(title: string, { events, seconds }: Outcome): void {
  const texts = new Map(
    events.flatMap((event) => (event.type === 'step-start' ? [[event.step, event.text]] : [])),
  );
  const ends = events.flatMap((event) => (event.type === 'step-end' ? [event] : []));
  for (const end of ends)
    console.log(
      `  ${end.outcome === 'cached' ? 'hit' : end.outcome} ${end.step} ${(texts.get(end.step) ?? '').slice(0, 90)}`,
    );
  const count = (outcome: string): number => ends.filter((end) => end.outcome === outcome).length;
  const moved = { pulled: formatBytes(bytes(events, 'pull')), pushed: formatBytes(bytes(events, 'push')) };
  const steps = ends.length === 0 ? '' : `${count('ran')} ran, ${count('cached')} hit, `;
  console.log(`  ${steps}${formatSeconds(seconds)}, pulled ${moved.pulled}, pushed ${moved.pushed}\n`);
  totals.push([
    title,
    String(count('ran')),
    String(count('cached')),
    formatSeconds(seconds),
    moved.pulled,
    moved.pushed,
  ]);
}

async function changeLastStep(context: string): Promise<void> {
  const path = join(context, 'Dockerfile');
  const text = await readFile(path, 'utf8');
  const changed = text.replace('RUN wordcount /usr', 'RUN echo words: && wordcount /usr');
  if (changed === text) throw new Error('the example has no such step');
  await writeFile(path, changed);
}

async function demo(): Promise<void> {
  console.log('Making a Debian base image with debootstrap (once; it is kept in .cache/) ...');
  const base = await debianTar();
  await using registry = await startRegistry();
  const image = `${registry.host}/debian:bookworm`;
  await pushTestImage(scratch, image, { layers: [base] });
  const context = join(scratch, 'wordcount');
  await cp(join(root, 'examples/wordcount'), context, { recursive: true });
  const volume = join(scratch, 'volume');
  const baseArgument = ['--build-arg', `BASE=${image}`];
  const build = (cacheDirectory: string): Promise<Outcome> =>
    kiln('executor', [
      ...['--context', context, ...baseArgument, '--cache-dir', cacheDirectory],
      ...['--cache', '--destination', `${registry.host}/wordcount:latest`],
    ]);

  console.log('\n1. Warm the base image that the Dockerfile names');
  const warm = ['--cache-dir', volume, '--dockerfile', join(context, 'Dockerfile'), ...baseArgument];
  report('warm the base', await kiln('warmer', warm));
  console.log('2. Build on the warm volume, with an empty cache');
  report('first build', await build(volume));
  console.log('3. Build again; nothing changed');
  report('nothing changed', await build(volume));
  console.log('4. The same on a node whose volume is empty');
  report('nothing changed, other node', await build(join(scratch, 'other-volume')));
  console.log('5. Change the last RUN and build again');
  await changeLastStep(context);
  report('last RUN changed', await build(volume));
  console.log('6. With no destination and no cache repository: everything stays on this machine');
  const alone = ['--context', context, ...baseArgument, '--cache-dir', volume];
  report('no registry, first', await kiln('executor', alone));
  report('no registry, again', await kiln('executor', alone));

  console.log(formatTable(['BUILD', 'RAN', 'HIT', 'TIME', 'PULLED', 'PUSHED'], totals));
}

try {
  await demo();
} finally {
  await rm(scratch, { recursive: true, force: true });
}
