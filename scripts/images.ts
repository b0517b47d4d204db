import { execFile, spawn } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import packageJson from '../package.json' with { type: 'json' };
import { updateLock } from './images/packages.ts';
import { assembleRuntimeLayers } from './images/runtime.ts';
import { assemblePrograms, writeMarker } from './kiln-root.ts';

/**
 * npm run images -- DIRECTORY: builds Kiln's images with Kiln into the OCI image layouts DIRECTORY/executor and
 * DIRECTORY/warmer, each with the names VERSION and VERSION-debug. They are the same wherever and whenever they are built
 * from the same commit. Needs root, and apt-get of Debian 12.
 *
 * npm run images -- --update: writes down the present versions of the packages that they are made of.
 */

const execute = promisify(execFile);
const project = join(import.meta.dirname, '..');

/** What is built: the program, and the stage of deploy/images/Dockerfile for each name. */
const images = ['executor', 'warmer'].flatMap((program) => [
  { program, stage: program, name: packageJson.version },
  { program, stage: `${program}-debug`, name: `${packageJson.version}-debug` },
]);

export interface OwnImage {
  readonly program: string;
  readonly name: string;
  /** Of the manifest. */
  readonly digest: string;
  /** Bytes that a registry keeps for it. */
  readonly size: number;
}

/** Builds all images into OCI image layouts below a directory. @throws Error when one cannot be built. */
export async function buildImages(output: string): Promise<OwnImage[]> {
  const work = await mkdtemp(join(tmpdir(), 'kiln-images-'));
  try {
    const context = join(work, 'context');
    await assembleContext(context);
    return await buildFrom(context, output, work);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Builds all images from an assembled context. @param work a directory for what need not stay. */
export async function buildFrom(context: string, output: string, work: string): Promise<OwnImage[]> {
  const date = process.env.SOURCE_DATE_EPOCH ?? (await commitDate());
  const built: OwnImage[] = [];
  for (const { program, stage, name } of images) {
    const layout = join(output, program);
    const digestFile = join(work, 'digest');
    await runExecutor(
      [
        ...['--context', context, '--target', stage, '--build-arg', `VERSION=${packageJson.version}`],
        ...['--destination', `registry.example/kiln/${program}:${name}`, '--no-push'],
        ...['--oci-layout-path', layout, '--digest-file', digestFile],
        ...['--cache-dir', join(work, 'volume'), '--cache', '--cache-repo', `oci:${join(work, 'layers')}`],
      ],
      date,
    );
    const digest = await readFile(digestFile, 'utf8');
    built.push({ program, name, digest, size: await imageSize(layout, digest) });
  }
  return built;
}

/** Assembles the directories that deploy/images/Dockerfile copies, and puts it beside them. */
export async function assembleContext(context: string): Promise<void> {
  const [runtime, tools, programs, debug] = ['runtime', 'tools', 'programs', 'debug'].map((name) =>
    join(context, name),
  ) as [string, string, string, string];
  for (const layer of [runtime, tools, programs, debug]) await mkdir(layer, { recursive: true });
  await assembleRuntimeLayers({ runtime, tools, debug });
  await assemblePrograms(programs);
  await writeMarker(debug, { files: ['/busybox', '/bin/sh'] });
  await cp(join(project, 'deploy/images/Dockerfile'), join(context, 'Dockerfile'));
}

async function commitDate(): Promise<string> {
  const { stdout } = await execute('git', ['log', '-1', '--format=%ct'], { cwd: project }).catch(
    (cause: unknown) => {
      throw new Error('this is no git checkout whose date the images could have; set SOURCE_DATE_EPOCH', {
        cause,
      });
    },
  );
  return stdout.trim();
}

/** Runs this project's executor, with its own caches and no settings of the caller's. */
async function runExecutor(args: readonly string[], date: string): Promise<void> {
  const { PATH, HOME, CI } = process.env;
  const child = spawn(process.execPath, [join(project, 'executor/main.ts'), ...args], {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { PATH, HOME, SOURCE_DATE_EPOCH: date, ...(CI === undefined ? {} : { CI }) },
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', resolve);
  });
  if (code !== 0) throw new Error(`the executor ended with exit code ${code ?? 'none'}`);
}

interface ManifestSizes {
  readonly config: { readonly size: number };
  readonly layers: readonly { readonly size: number }[];
}

async function imageSize(layout: string, digest: string): Promise<number> {
  const text = await readFile(join(layout, 'blobs', digest.replace(':', '/')), 'utf8');
  const { config, layers } = JSON.parse(text) as ManifestSizes;
  return [config, ...layers].reduce((sum, { size }) => sum + size, text.length);
}

if (import.meta.main) {
  process.umask(0o022);
  const [word] = process.argv.slice(2);
  if (word === '--update') await updateLock();
  else if (word === undefined || word.startsWith('-'))
    throw new Error('usage: npm run images -- DIRECTORY, or npm run images -- --update');
  else
    for (const { program, name, digest, size } of await buildImages(resolve(word)))
      console.log(`${program}:${name} ${digest} ${(size / 1e6).toFixed(1)} MB`);
}
