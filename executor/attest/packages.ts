/** A package as the database of its package manager, or its own metadata, names it. */
export interface FoundPackage {
  readonly manager: 'deb' | 'apk' | 'npm' | 'pypi';
  readonly name: string;
  readonly version: string;
  readonly architecture?: string | undefined;
  /** As it is declared; it need not be an SPDX expression. */
  readonly license?: string | undefined;
  readonly supplier?: string | undefined;
  /** What it was built from, when that has another name. */
  readonly source?: string | undefined;
  /** The file that says so. */
  readonly path: string;
}

/** What a distribution says of itself in os-release(5). */
export interface Distribution {
  readonly id: string;
  readonly versionID: string | undefined;
}

const mebibyte = 1024 ** 2;

/** A kind of file that tells of packages. */
interface PackageFile {
  readonly pattern: RegExp;
  /** Larger ones are not read. */
  readonly limit: number;
  readonly read: (content: Buffer, path: string) => FoundPackage[];
}

const files: readonly PackageFile[] = [
  { pattern: /^var\/lib\/dpkg\/status$/, limit: 64 * mebibyte, read: readDpkg },
  // Images without a shell have a file for each package.
  { pattern: /^var\/lib\/dpkg\/status\.d\/[^/]+$/, limit: mebibyte, read: readDpkg },
  { pattern: /^(?:usr\/)?lib\/apk\/db\/installed$/, limit: 64 * mebibyte, read: readApk },
  {
    pattern: /(?:^|\/)node_modules\/(?:@[^/]+\/)?[^/@][^/]*\/package\.json$/,
    limit: mebibyte,
    read: readNpm,
  },
  {
    pattern: /\.dist-info\/METADATA$|\.egg-info\/PKG-INFO$|\.egg-info$/,
    limit: 4 * mebibyte,
    read: readPython,
  },
];

/** What reads a file; undefined for one that tells of no package. */
export function packageFileAt(path: string): PackageFile | undefined {
  return files.find(({ pattern }) => pattern.test(path));
}

/** Databases that are not read, and how they are called. */
export function unreadDatabase(path: string): string | undefined {
  return /^(?:var\/lib|usr\/lib\/sysimage|usr\/share)\/rpm\/(?:rpmdb\.sqlite|Packages|Packages\.db)$/.test(
    path,
  )
    ? 'rpm'
    : undefined;
}

export const releaseFiles = /^(?:etc|usr\/lib)\/os-release$/;

/** @returns undefined when it has no ID. */
export function readRelease(content: Buffer): Distribution | undefined {
  const values = new Map(
    [...content.toString('utf8').matchAll(/^([A-Z_]+)=(["']?)(.*?)\2\s*$/gm)].map(
      ([, name = '', , value = '']) => [name, value],
    ),
  );
  const id = values.get('ID');
  return id === undefined || id === '' ? undefined : { id, versionID: values.get('VERSION_ID') };
}

/** Paragraphs as deb822(5) has them; continuation lines are not needed. */
function paragraphs(text: string): Map<string, string>[] {
  return text.split(/\n\n+/).map((paragraph) => {
    const fields = new Map<string, string>();
    for (const line of paragraph.split('\n')) {
      const colon = line.indexOf(':');
      if (colon <= 0 || /^\s/.test(line)) continue;
      const name = line.slice(0, colon).toLowerCase();
      if (!fields.has(name)) fields.set(name, line.slice(colon + 1).trim());
    }
    return fields;
  });
}

function readDpkg(content: Buffer, path: string): FoundPackage[] {
  if (path.endsWith('.md5sums')) return [];
  return paragraphs(content.toString('utf8')).flatMap((fields) => {
    const [name, version] = [fields.get('package'), fields.get('version')];
    const status = fields.get('status');
    const isInstalled = status === undefined || / installed$/.test(status);
    if (name === undefined || version === undefined || !isInstalled) return [];
    return [
      {
        ...{ manager: 'deb' as const, name, version, path },
        architecture: fields.get('architecture'),
        supplier: fields.get('maintainer'),
        source: fields.get('source')?.replace(/ .*/, ''),
      },
    ];
  });
}

function readApk(content: Buffer, path: string): FoundPackage[] {
  return content
    .toString('utf8')
    .split(/\n\n+/)
    .flatMap((paragraph) => {
      const field = (letter: string): string | undefined =>
        new RegExp(`^${letter}:(.*)$`, 'm').exec(paragraph)?.[1];
      const [name, version] = [field('P'), field('V')];
      if (name === undefined || version === undefined) return [];
      return [
        {
          ...{ manager: 'apk' as const, name, version, path },
          architecture: field('A'),
          license: field('L'),
          supplier: field('m'),
          source: field('o'),
        },
      ];
    });
}

function readNpm(content: Buffer, path: string): FoundPackage[] {
  let value: unknown;
  try {
    value = JSON.parse(content.toString('utf8'));
  } catch (error) {
    if (error instanceof SyntaxError) return [];
    throw error;
  }
  const { name, version, license } = (value ?? {}) as Record<string, unknown>;
  if (typeof name !== 'string' || typeof version !== 'string' || name === '' || version === '') return [];
  return [
    { manager: 'npm', name, version, path, license: typeof license === 'string' ? license : undefined },
  ];
}

function readPython(content: Buffer, path: string): FoundPackage[] {
  const text = content.toString('utf8');
  const end = /\r?\n\r?\n/.exec(text)?.index ?? text.length;
  const head = text.slice(0, end);
  const header = (name: string): string | undefined =>
    new RegExp(`^${name}: *(.*?)\\r?$`, 'mi').exec(head)?.[1];
  const [name, version] = [header('Name'), header('Version')];
  if (name === undefined || version === undefined || name === '' || version === '') return [];
  const license = header('License-Expression') ?? header('License');
  return [{ manager: 'pypi', name, version, path, license }];
}
