import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import packageJson from '../../package.json' with { type: 'json' };

/*
 * The packages that Kiln's images are made of besides its own code: their versions and digests are written down in
 * packages.json, so that the images are the same wherever and whenever they are made.
 */

const execute = promisify(execFile);
const project = join(import.meta.dirname, '../..');
const lockFile = join(import.meta.dirname, 'packages.json');
const downloads = join(project, '.cache/packages');

/** What is unpacked of Debian: programs, the libraries they load, and those whose licences others refer to. */
const shippedNames = [
  ...['git', 'util-linux', 'uidmap', 'xz-utils', 'bzip2', 'busybox-static', 'ca-certificates'],
  ...['libc6', 'libstdc++6', 'libgcc-s1', 'gcc-12-base'],
  ...['zlib1g', 'libpcre2-8-0', 'liblzma5', 'libbz2-1.0', 'libselinux1', 'libaudit1', 'libcap-ng0'],
  ...['libcurl3-gnutls', 'libnghttp2-14', 'libidn2-0', 'librtmp1', 'libssh2-1', 'libpsl5', 'libbrotli1'],
  ...['libnettle8', 'libhogweed6', 'libgnutls30', 'libgmp10', 'libtasn1-6', 'libp11-kit0', 'libffi8'],
  ...['libgssapi-krb5-2', 'libkrb5-3', 'libk5crypto3', 'libkrb5support0', 'libcom-err2', 'libkeyutils1'],
  ...['libldap-2.5-0', 'libsasl2-2', 'libssl3', 'libzstd1', 'libunistring2'],
];

const binutilsNames: Readonly<Record<string, string>> = { x64: 'x86-64', arm64: 'aarch64' };

/** Tools for making the images, which are not in them, and the texts of licences that all others refer to. */
const otherNames = [
  ...[
    'patchelf',
    `binutils-${binutilsNames[process.arch] ?? process.arch}-linux-gnu`,
    'libbinutils',
    'libctf0',
    'libgprofng0',
    'libjansson4',
  ],
  'base-files',
];

interface DebianPackage {
  readonly version: string;
  readonly sha256: string;
}

interface NodePackage {
  readonly name: string;
  readonly version: string;
  /** As npm writes it: `sha512-` and base64. */
  readonly integrity: string;
}

interface PackageLock {
  readonly node: NodePackage;
  readonly debian: Readonly<Record<string, DebianPackage>>;
}

/** What {@link unpackPackages} made. */
export interface UnpackedPackages {
  /** The root of Debian's packages. */
  readonly debian: string;
  /** Node's npm package. */
  readonly node: string;
  /** The packages of Debian of which something is in the images. */
  readonly shipped: readonly { readonly name: string; readonly version: string }[];
}

type LockFile = Readonly<Record<string, PackageLock | undefined>>;

/** A digest of all packages, for names of what is made of them. */
export async function packagesDigest(): Promise<string> {
  return createHash('sha256')
    .update(await readFile(lockFile))
    .digest('hex');
}

async function readLock(): Promise<PackageLock> {
  const lock = (JSON.parse(await readFile(lockFile, 'utf8')) as LockFile)[process.arch];
  if (lock === undefined)
    throw new Error(
      `${lockFile} has no packages for ${process.arch}; npm run images -- --update writes those of Debian`,
    );
  if (lock.node.version !== packageJson.dependencies.node)
    throw new Error(
      `${lockFile} has Node ${lock.node.version}, package.json ${packageJson.dependencies.node}; npm run images -- --update`,
    );
  return lock;
}

/**
 * Unpacks all Debian packages into a directory, over each other as they would be installed, and Node's npm package into
 * `node` beside them. Downloads are kept in `.cache/`; each is verified before it is unpacked.
 *
 * @throws Error when a package is not what the lock says, or can no longer be had.
 */
export async function unpackPackages(directory: string): Promise<UnpackedPackages> {
  const lock = await readLock();
  await mkdir(downloads, { recursive: true });
  const places = { debian: join(directory, 'debian'), node: join(directory, 'node') };
  for (const place of Object.values(places)) await mkdir(place, { recursive: true });
  for (const file of await fetchDebian(lock.debian))
    await execute('dpkg-deb', ['--extract', file, places.debian]);
  const node = await fetchNode(lock.node);
  await execute('tar', ['-xzf', node, '-C', places.node, '--strip-components=1', '--no-same-owner']);
  const shipped = shippedNames.map((name) => ({ name, version: lock.debian[name]?.version ?? '' }));
  return { ...places, shipped };
}

async function fetchDebian(packages: PackageLock['debian']): Promise<string[]> {
  const place = (name: string, sha256: string): string =>
    join(downloads, `${name}-${sha256.slice(0, 16)}.deb`);
  const missing = Object.entries(packages).filter(([name, { sha256 }]) => !existsSync(place(name, sha256)));
  if (missing.length > 0)
    await inNewDirectory(async (directory) => {
      const words = missing.map(([name, { version }]) => `${name}=${version}`);
      // apt verifies what it fetches by the signatures of the suite, too.
      await execute('apt-get', ['download', ...words], { cwd: directory }).catch((cause: unknown) => {
        throw new Error('Debian no longer has these versions; npm run images -- --update', { cause });
      });
      const files = await readdir(directory);
      for (const [name, { sha256 }] of missing) {
        const file = files.find((one) => one.startsWith(`${name}_`));
        if (file === undefined) throw new Error(`apt-get did not fetch ${name}`);
        await keepVerified(
          join(directory, file),
          { algorithm: 'sha256', digest: sha256, encoding: 'hex' },
          place(name, sha256),
        );
      }
    });
  return Object.entries(packages).map(([name, { sha256 }]) => place(name, sha256));
}

/** The npm package `node` fetches the one with the binary when it is installed; here the same one comes verified. */
async function fetchNode({ name, version, integrity }: NodePackage): Promise<string> {
  const place = join(downloads, `${name}-${version}.tgz`);
  if (existsSync(place)) return place;
  await inNewDirectory(async (directory) => {
    await execute('npm', ['pack', '--silent', `${name}@${version}`], { cwd: directory });
    const [file] = await readdir(directory);
    if (file === undefined) throw new Error(`npm did not fetch ${name}`);
    const digest = integrity.replace(/^sha512-/, '');
    await keepVerified(join(directory, file), { algorithm: 'sha512', digest, encoding: 'base64' }, place);
  });
  return place;
}

async function inNewDirectory(work: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(downloads, 'new-'));
  try {
    await work(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

interface Expected {
  readonly algorithm: 'sha256' | 'sha512';
  readonly digest: string;
  readonly encoding: 'hex' | 'base64';
}

async function keepVerified(
  file: string,
  { algorithm, digest, encoding }: Expected,
  place: string,
): Promise<void> {
  const found = createHash(algorithm)
    .update(await readFile(file))
    .digest(encoding);
  if (found !== digest) throw new Error(`${file} has the digest ${found}, not ${digest} as ${lockFile} says`);
  await rename(file, place);
}

/** Writes the versions and digests that Debian's and npm's indices have now for this machine's architecture. */
export async function updateLock(): Promise<void> {
  const version = packageJson.dependencies.node;
  const name = `node-linux-${process.arch}`;
  const { stdout: integrity } = await execute('npm', ['view', `${name}@${version}`, 'dist.integrity']);
  const locks = existsSync(lockFile) ? (JSON.parse(await readFile(lockFile, 'utf8')) as LockFile) : {};
  const lock: PackageLock = {
    node: { name, version, integrity: integrity.trim() },
    debian: await askDebian(),
  };
  const temporary = `${lockFile}.${randomBytes(4).toString('hex')}`;
  await writeFile(temporary, `${JSON.stringify({ ...locks, [process.arch]: lock }, undefined, 2)}\n`);
  await rename(temporary, lockFile);
}

async function askDebian(): Promise<Record<string, DebianPackage>> {
  await execute('apt-get', ['update', '-qq']);
  const { stdout } = await execute(
    'apt-cache',
    ['show', '--no-all-versions', ...shippedNames, ...otherNames],
    {
      maxBuffer: 1 << 26,
    },
  );
  const packages: Record<string, DebianPackage> = {};
  for (const text of stdout.split('\n\n')) {
    const field = (name: string): string | undefined => new RegExp(`^${name}: (.*)$`, 'm').exec(text)?.[1];
    const [name, version, sha256] = ['Package', 'Version', 'SHA256'].map(field);
    if (name !== undefined && version !== undefined && sha256 !== undefined)
      packages[name] = { version, sha256 };
  }
  const unknown = [...shippedNames, ...otherNames].find((name) => packages[name] === undefined);
  if (unknown !== undefined)
    throw new Error(`Debian's index has no package ${unknown}; these are names of bookworm`);
  return Object.fromEntries(Object.entries(packages).sort(([a], [b]) => (a < b ? -1 : 1)));
}
