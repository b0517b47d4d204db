import { createHash } from 'node:crypto';
import { version } from '../../src/support/index.ts';
import type { PackageInventory } from './inventory.ts';
import type { Distribution, FoundPackage } from './packages.ts';

/** What a document is about. */
export interface DescribedImage {
  /** As a user names it. */
  readonly name: string;
  /** Of its manifest, `sha256:…`. */
  readonly digest: string;
  readonly created: Date;
}

/** Identifiers of the SPDX license list that are common; others are given as they are declared, in a comment. */
const knownLicenses = new Set(
  (
    '0BSD Apache-2.0 Artistic-2.0 BSD-2-Clause BSD-3-Clause BSL-1.0 BlueOak-1.0.0 CC-BY-3.0 CC-BY-4.0 CC0-1.0 GPL-2.0-only ' +
    'GPL-2.0-or-later GPL-3.0-only GPL-3.0-or-later ISC LGPL-2.0-or-later LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0-only ' +
    'LGPL-3.0-or-later MIT MIT-0 MPL-2.0 OpenSSL PSF-2.0 Python-2.0 Unlicense WTFPL X11 Zlib curl'
  ).split(' '),
);
const noAssertion = 'NOASSERTION';

/**
 * A bill of materials as an SPDX 2.3 document in JSON. It depends on nothing but the image, so that the same image always has
 * the same one.
 */
export function spdxDocument(image: DescribedImage, inventory: PackageInventory): object {
  const { packages, distribution, omissions } = inventory;
  const entries = new Map<string, object>();
  for (const found of packages) {
    const id = `SPDXRef-Package-${found.manager}-${hash(JSON.stringify([found.name, found.version, found.architecture, found.path]))}`;
    entries.set(id, packageEntry(id, found, distribution));
  }
  const root = 'SPDXRef-Image';
  const relation = (from: string, relationshipType: string, to: string): object => ({
    ...{ spdxElementId: from, relationshipType, relatedSpdxElement: to },
  });
  return {
    spdxVersion: 'SPDX-2.3',
    dataLicense: 'CC0-1.0',
    SPDXID: 'SPDXRef-DOCUMENT',
    name: image.name,
    documentNamespace: `https://spdx.org/spdxdocs/kiln-${uuidOf(image.digest)}`,
    creationInfo: {
      created: image.created.toISOString().replace(/\.[0-9]+Z$/, 'Z'),
      creators: [`Tool: kiln-${version}`],
    },
    ...(omissions.length === 0 ? {} : { comment: `Not complete: ${omissions.join('; ')}.` }),
    documentDescribes: [root],
    packages: [
      {
        SPDXID: root,
        name: image.name,
        versionInfo: image.digest,
        primaryPackagePurpose: 'CONTAINER',
        downloadLocation: noAssertion,
        filesAnalyzed: false,
        licenseConcluded: noAssertion,
        licenseDeclared: noAssertion,
        copyrightText: noAssertion,
        checksums: [{ algorithm: 'SHA256', checksumValue: image.digest.replace('sha256:', '') }],
      },
      ...entries.values(),
    ],
    relationships: [
      relation('SPDXRef-DOCUMENT', 'DESCRIBES', root),
      ...[...entries.keys()].map((id) => relation(root, 'CONTAINS', id)),
    ],
  };
}

function packageEntry(id: string, found: FoundPackage, distribution: Distribution | undefined): object {
  const { name, version: versionInfo, license, supplier, path } = found;
  const isKnown = license !== undefined && isExpression(license);
  return {
    SPDXID: id,
    name,
    versionInfo,
    downloadLocation: noAssertion,
    filesAnalyzed: false,
    sourceInfo: `found in /${path}`,
    licenseConcluded: noAssertion,
    licenseDeclared: isKnown ? license : noAssertion,
    ...(license === undefined || isKnown ? {} : { licenseComments: `declared as: ${license.slice(0, 200)}` }),
    copyrightText: noAssertion,
    ...(supplier === undefined ? {} : { supplier: `Organization: ${supplier.slice(0, 200)}` }),
    externalRefs: [
      {
        referenceCategory: 'PACKAGE-MANAGER',
        referenceType: 'purl',
        referenceLocator: purlOf(found, distribution),
      },
    ],
  };
}

/** A package URL (purl-spec). */
function purlOf(
  { manager, name, version: number, architecture, source }: FoundPackage,
  distribution: Distribution | undefined,
): string {
  const part = (text: string): string => encodeURIComponent(text).replaceAll('%3A', ':');
  if (manager === 'npm')
    return `pkg:npm/${name.split('/').map(encodeURIComponent).join('/')}@${part(number)}`;
  if (manager === 'pypi') return `pkg:pypi/${part(name.toLowerCase().replaceAll('_', '-'))}@${part(number)}`;
  const id = distribution?.id ?? (manager === 'apk' ? 'alpine' : 'debian');
  const release = distribution?.versionID === undefined ? undefined : `${id}-${distribution.versionID}`;
  const qualifiers = Object.entries({ arch: architecture, distro: release, upstream: source })
    .filter(([, value]) => value !== undefined && value !== '')
    .map(([key, value]) => `${key}=${encodeURIComponent(value ?? '')}`);
  const tail = qualifiers.length === 0 ? '' : `?${qualifiers.join('&')}`;
  return `pkg:${manager}/${part(id)}/${part(name)}@${part(number)}${tail}`;
}

/** Whether a text is an SPDX license expression of identifiers that are known. */
function isExpression(text: string): boolean {
  const words = text.replace(/[()]/g, ' ').trim().split(/\s+/);
  return (
    words.length % 2 === 1 &&
    words.every((word, at) => (at % 2 === 0 ? knownLicenses.has(word) : /^(?:AND|OR)$/.test(word)))
  );
}

function hash(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}

/** A UUID that only the digest decides (RFC 9562, version 8). */
function uuidOf(digest: string): string {
  const hex = createHash('sha256').update(`kiln-spdx ${digest}`).digest('hex');
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    `8${hex.slice(13, 16)}`,
    `8${hex.slice(17, 20)}`,
    hex.slice(20, 32),
  ].join('-');
}
