import { execFile, execFileSync } from 'node:child_process';
import { chmodSync, linkSync, lstatSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { ContainerConfig } from '../../src/oci/index.ts';
import { setXattr } from '../../src/os/index.ts';
import { busyboxLayer, writeTestLayout } from './images.ts';
import { buildInProcess } from './in-process.ts';
import { describeTree, treeDifferences } from './tree.ts';
import { temporaryDirectory, writeFiles } from './programs.ts';
import { plant } from './trees.ts';

const execute = promisify(execFile);

/** One feature of the language, built by Kiln and by a builder that is not ours. */
export interface ReferenceCase {
  readonly name: string;
  /** Stages; `base` in it is a busybox image. Names of stages end in `@`, so that cases can be put together. */
  readonly dockerfile: string;
  /** For what buildah does not know: the same thing in words that it does know. */
  readonly equivalent?: string;
  /** Where the reference does otherwise, what is not compared, and on whose authority Kiln does what it does. */
  readonly differs?: { readonly what: RegExp; readonly why: string };
}

/** A case whose last stage's files are compared. */
export interface TreeCase extends ReferenceCase {
  /** Which directory of the stage; default all of it. */
  readonly result?: string;
  /** Text of the context's `.dockerignore`. */
  readonly ignore?: string;
}

/** A case whose configuration is compared. */
export interface ConfigCase extends ReferenceCase {
  readonly arguments?: Readonly<Record<string, string>>;
  readonly target?: string;
  /** Neither builds it. */
  readonly fails?: true;
}

/** Builds cases with both builders, and tells how their images differ. */
export interface ReferenceGround extends AsyncDisposable {
  /**
   * Builds cases with the same context together, as stages of one Dockerfile whose last one takes a directory of each.
   *
   * @returns for each case by name, a line for each path that differs.
   */
  compareTrees(cases: readonly TreeCase[]): Promise<ReadonlyMap<string, readonly string[]>>;
  /** @returns a line for each field that differs; none when both refuse what is to be refused. */
  compareConfigs(reference: ConfigCase): Promise<readonly string[]>;
}

type Tree = ReadonlyMap<string, string>;

export async function openReferenceGround(): Promise<ReferenceGround> {
  const scratch = await temporaryDirectory();
  const directory = scratch.path;
  const layer = await busyboxLayer(directory);
  const base = await writeTestLayout(join(directory, 'base'), 'base', {
    layers: [layer],
    config: { Env: ['PATH=/bin', 'FROM_BASE=yes'], Cmd: ['sh'], WorkingDir: '/home', Labels: { base: '1' } },
  });
  const buildah = new Buildah(directory);
  await buildah.pull(base);
  const volume = join(directory, 'volume');
  const build = (place: string, context: string, dockerfile: string, request: Request = {}) =>
    buildInProcess({
      ...request,
      ...{ dockerfile, context, place: join(place, 'kiln'), volume },
      contexts: [`base=oci-layout://${base}:base`],
    });
  let count = 0;
  const newPlace = (): string => join(directory, `build-${count++}`);
  return {
    compareTrees: async (cases) => {
      const found = new Map<string, readonly string[]>();
      for (const ignore of new Set(cases.map((reference) => reference.ignore))) {
        const group = cases.filter((reference) => reference.ignore === ignore);
        const place = newPlace();
        const context = await writeFiles(join(place, 'context'), { '.dockerignore': ignore ?? '' });
        plantMaterial(context);
        const [ours, theirs] = await Promise.all([
          build(
            place,
            context,
            togetherOf(group, ({ dockerfile }) => dockerfile),
          ),
          buildah.build(
            place,
            context,
            togetherOf(group, ({ dockerfile, equivalent }) => equivalent ?? dockerfile),
          ),
        ]);
        const trees = await Promise.all([
          treeOf(place, ours.layout),
          treeOf(place, await buildah.export(place, theirs)),
        ]);
        for (const [index, { name, differs }] of group.entries()) {
          const [one, other] = trees.map((tree) => below(tree, `case-${index}/`));
          const lines = treeDifferences(one ?? new Map(), other ?? new Map());
          found.set(
            name,
            lines.filter((line) => differs?.what.test(line) !== true),
          );
        }
      }
      return found;
    },
    compareConfigs: async (reference) => {
      const { dockerfile, equivalent = dockerfile, differs, fails } = reference;
      const place = newPlace();
      const context = await writeFiles(join(place, 'context'), { 'a.txt': 'a' });
      const attempt = async (config: Promise<Tree>): Promise<Tree | string> => config.catch(String);
      const [ours, theirs] = await Promise.all([
        attempt(build(place, context, dockerfile, reference).then(({ layout }) => configOfLayout(layout))),
        attempt(buildah.build(place, context, equivalent, reference).then((image) => buildah.config(image))),
      ]);
      const failed = [ours, theirs].filter((outcome) => typeof outcome === 'string');
      if (typeof ours === 'string' || typeof theirs === 'string')
        return fails === true && failed.length === 2 ? [] : failed;
      if (fails === true) return ['it does not fail'];
      return treeDifferences(ours, theirs).filter((line) => differs?.what.test(line) !== true);
    },
    [Symbol.asyncDispose]: () => scratch[Symbol.asyncDispose](),
  };
}

/** One Dockerfile of several cases: the result of each is in a directory of the image. */
function togetherOf(cases: readonly TreeCase[], textOf: (reference: TreeCase) => string): string {
  const stages = cases.map((reference, index) => {
    const lines = textOf(reference).trimEnd().replaceAll('@', `-${index}`).split('\n');
    const last = lines.findLastIndex((line) => line.startsWith('FROM '));
    lines[last] += ` AS case-${index}`;
    return lines.join('\n');
  });
  const results = cases.map(
    ({ result = '/' }, index) => `COPY --from=case-${index} ${result} /case-${index}/`,
  );
  return [...stages, 'FROM scratch', ...results, ''].join('\n');
}

function below(tree: Tree, prefix: string): Tree {
  return new Map(
    [...tree].flatMap(([path, facts]) =>
      path.startsWith(prefix) ? [[path.slice(prefix.length), facts.replaceAll(prefix, '')] as const] : [],
    ),
  );
}

/** What the contexts of all cases hold: files of every kind and mode. */
function plantMaterial(context: string): void {
  plant(context, {
    'a.txt': 'a',
    'b.txt': 'b',
    'c.md': 'c',
    'line.txt': 'a\n',
    'dir/one': '1',
    'dir/two.txt': '2',
    'dir/sub/three': '3',
    'dir/sub/deep/four.txt': '4',
    'empty/': '',
    'program.sh': '#!/bin/sh\n',
    private: 'p',
    setuid: '',
    'sp ace.txt': 's',
    '.hidden': 'h',
    'closed/inside': '',
    'links/target': 't',
    noted: 'n',
    'not.tar.gz': 'no archive',
    'äöü.txt': 'u',
  });
  const at = (path: string): string => join(context, path);
  for (const [path, mode] of [
    ['program.sh', 0o755],
    ['private', 0o600],
    ['setuid', 0o4755],
    ['closed', 0o700],
    ['dir/sub', 0o711],
  ] as const)
    chmodSync(at(path), mode);
  symlinkSync('target', at('links/relative'));
  symlinkSync('/etc/passwd', at('links/absolute'));
  symlinkSync('nowhere', at('links/dangling'));
  symlinkSync('a.txt', at('alias'));
  symlinkSync('dir', at('dirlink'));
  linkSync(at('links/target'), at('links/same'));
  setXattr(at('noted'), 'user.note', Buffer.from('kept'));
  const source = join(context, '../packed');
  plant(source, { 'in/file': 'packed', 'in/more/x': '' });
  chmodSync(join(source, 'in/file'), 0o640);
  for (const [name, option] of [
    ['plain.tar', []],
    ['packed.tgz', ['-z']],
    ['packed.tar.bz2', ['-j']],
    ['packed.tar.xz', ['-J']],
  ] as const)
    execFileSync('tar', [
      '-C',
      source,
      '--owner=12',
      '--group=34',
      '--numeric-owner',
      ...option,
      '-cf',
      at(name),
      'in',
    ]);
}

interface Request {
  readonly arguments?: Readonly<Record<string, string>>;
  readonly target?: string;
}

/** buildah, which runs steps in a chroot and keeps everything below one directory. */
class Buildah {
  readonly #storage: readonly string[];
  readonly #directory: string;
  #images = 0;

  constructor(directory: string) {
    this.#directory = directory;
    const [root, run] = [join(directory, 'storage'), join(directory, 'storage-run')];
    this.#storage = ['--root', root, '--runroot', run, '--storage-driver', 'vfs'];
  }

  /** Brings the image of a layout, as `base`. */
  async pull(layout: string): Promise<void> {
    const [, root = '', , run = ''] = this.#storage;
    const target = `containers-storage:[vfs@${root}+${run}]localhost/base:latest`;
    await execute('skopeo', ['copy', '--quiet', `oci:${layout}:base`, target]);
  }

  /** @returns the image's name. */
  async build(
    place: string,
    context: string,
    dockerfile: string,
    { target, arguments: given = {} }: Request = {},
  ): Promise<string> {
    const directory = await writeFiles(join(place, 'theirs'), { Dockerfile: dockerfile });
    const image = `image-${this.#images++}`;
    await this.#run([
      ...['build', '--isolation', 'chroot', '--format', 'docker', '--identity-label=false', '--quiet'],
      ...['--layers=false', '--pull=never', '--file', join(directory, 'Dockerfile'), '--tag', image],
      ...(target === undefined ? [] : ['--target', target]),
      ...Object.entries(given).flatMap(([name, value]) => ['--build-arg', `${name}=${value}`]),
      context,
    ]);
    return image;
  }

  async config(image: string): Promise<Tree> {
    const { Docker } = JSON.parse(await this.#run(['inspect', '--type', 'image', image])) as {
      Docker: { config: ContainerConfig };
    };
    return fieldsOf(Docker.config);
  }

  /** @returns the image in a layout. */
  async export(place: string, image: string): Promise<string> {
    const layout = `${join(place, 'buildah')}:image`;
    await this.#run(['push', '--quiet', '--format', 'oci', image, `oci:${layout}`]);
    return layout;
  }

  async #run(args: readonly string[]): Promise<string> {
    const { stdout } = await execute('buildah', [...this.#storage, ...args], {
      maxBuffer: 1 << 26,
      // Where it keeps the caches of steps.
      env: { ...process.env, TMPDIR: this.#directory },
    });
    return stdout.trim();
  }
}

async function treeOf(place: string, image: string): Promise<ReadonlyMap<string, string>> {
  const bundle = join(place, `bundle-${image.split('/').at(-1)?.replaceAll(':', '-') ?? ''}`);
  await execute('umoci', ['unpack', '--image', image, bundle]);
  const root = join(bundle, 'rootfs');
  return withGroups(root, describeTree(root));
}

/** Adds to each file with several names the first of them. */
function withGroups(root: string, tree: ReadonlyMap<string, string>): ReadonlyMap<string, string> {
  const first = new Map<number, string>();
  return new Map(
    [...tree].sort().map(([path, facts]) => {
      const { ino, nlink } = lstatSync(join(root, path));
      if (facts.startsWith('d') || nlink === 1) return [path, facts];
      const known = first.get(ino) ?? path;
      first.set(ino, known);
      return [path, `${facts} = ${known}`];
    }),
  );
}

function configOfLayout(name: string): Tree {
  const layout = name.replace(/:[^:]*$/, '');
  const read = (digest: string): unknown =>
    JSON.parse(readFileSync(join(layout, 'blobs', digest.replace(':', '/')), 'utf8'));
  const index = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as {
    manifests: { digest: string }[];
  };
  const manifest = read(index.manifests[0]?.digest ?? '') as { config: { digest: string } };
  const image = read(manifest.config.digest) as { config: ContainerConfig };
  return fieldsOf(image.config);
}

/** The fields that say something, each as one text. */
function fieldsOf(config: ContainerConfig): ReadonlyMap<string, string> {
  const names = [
    ...['Env', 'Entrypoint', 'Cmd', 'WorkingDir', 'User', 'ExposedPorts', 'Volumes', 'Labels'],
    ...['StopSignal', 'Shell', 'Healthcheck', 'OnBuild'],
  ] as const;
  const fields = new Map<string, string>();
  for (const name of names) {
    const value = config[name];
    const isEmpty =
      value === undefined ||
      value === null ||
      value === '' ||
      (typeof value === 'object' && Object.keys(value).length === 0);
    if (!isEmpty) fields.set(name, JSON.stringify(value, sortedKeys));
  }
  return fields;
}

function sortedKeys(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}
