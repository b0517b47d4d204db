import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

interface RuntimeConfig {
  process: { terminal: boolean; args: string[] };
  linux: { namespaces: { type: string }[]; resources?: unknown };
}

/** Copies an image out of a registry with skopeo and unpacks it with umoci. Returns the bundle's directory. */
export function unpackWithOtherTools(scratch: string, reference: string): string {
  const name = randomBytes(6).toString('hex');
  const layout = join(scratch, `layout-${name}`);
  execFileSync(
    'skopeo',
    ['copy', '--quiet', '--src-tls-verify=false', `docker://${reference}`, `oci:${layout}:image`],
    {
      stdio: 'pipe',
    },
  );
  return unpackLayout(scratch, `${layout}:image`);
}

/**
 * The content of some files of an image, read with skopeo and GNU tar: of each, from the highest layer that has it. Costs
 * less than unpacking the whole image.
 *
 * @param paths relative to the image's root.
 */
export function readWithOtherTools(
  scratch: string,
  reference: string,
  paths: readonly string[],
): (string | undefined)[] {
  const directory = join(scratch, `image-${randomBytes(6).toString('hex')}`);
  const source = `docker://${reference}`;
  execFileSync('skopeo', ['copy', '--quiet', '--src-tls-verify=false', source, `dir:${directory}`], {
    stdio: 'pipe',
  });
  const { layers } = JSON.parse(readFileSync(join(directory, 'manifest.json'), 'utf8')) as {
    layers: { digest: string }[];
  };
  const files = layers.map(({ digest }) => join(directory, digest.slice('sha256:'.length))).reverse();
  const contents = paths.map((path) => {
    const holder = files.find((file) =>
      execFileSync('tar', ['-tzf', file], { encoding: 'latin1', maxBuffer: 1 << 26 })
        .split('\n')
        .includes(path),
    );
    return holder && execFileSync('tar', ['-xzOf', holder, path], { encoding: 'utf8' });
  });
  rmSync(directory, { recursive: true });
  return contents;
}

/** Unpacks `DIR:NAME` with umoci. Returns the bundle's directory, with its tree in `rootfs`. */
export function unpackLayout(scratch: string, image: string): string {
  const bundle = join(scratch, `bundle-${randomBytes(6).toString('hex')}`);
  execFileSync('umoci', ['unpack', '--image', image, bundle], { stdio: 'pipe' });
  return bundle;
}

/** Runs a command, or the image's own, in an unpacked bundle with runc. Returns what it printed. */
export function runWithRunc(bundle: string, args?: readonly string[]): string {
  const path = join(bundle, 'config.json');
  const config = JSON.parse(readFileSync(path, 'utf8')) as RuntimeConfig;
  config.process.terminal = false;
  if (args !== undefined) config.process.args = [...args];
  config.linux.namespaces = config.linux.namespaces.filter(({ type }) => type !== 'cgroup');
  delete config.linux.resources;
  writeFileSync(path, JSON.stringify(config));
  return execFileSync('runc', ['run', `kiln-test-${randomBytes(6).toString('hex')}`], {
    cwd: bundle,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

/** The configuration that a registry serves for an image, read by skopeo. */
export function inspectConfig(reference: string): {
  author?: string;
  created?: string;
  config: Record<string, unknown>;
  history: { created?: string; created_by?: string; empty_layer?: boolean }[];
  rootfs: { diff_ids: string[] };
} {
  const text = execFileSync(
    'skopeo',
    ['inspect', '--config', '--raw', '--tls-verify=false', `docker://${reference}`],
    {
      encoding: 'utf8',
    },
  );
  return JSON.parse(text) as ReturnType<typeof inspectConfig>;
}

/** The manifest of an image, read by skopeo. @param transport where it is; by default a registry. */
export function inspectManifest(
  reference: string,
  transport = 'docker://',
): {
  layers: { digest: string; mediaType: string; size: number }[];
} {
  const source = `${transport}${reference}`;
  const text = execFileSync('skopeo', ['inspect', '--raw', '--tls-verify=false', source], {
    encoding: 'utf8',
  });
  return JSON.parse(text) as ReturnType<typeof inspectManifest>;
}
