import { formatPlatform, formatReference, parsePlatform, parseReference } from '../../src/oci/index.ts';
import type { ConfigurationDocument, DocumentCheck } from './configuration-document.ts';
import { parseShare } from './configuration-formats.ts';
import type { FieldLocator, FieldPath, Problem } from './configuration-problems.ts';

function refreshOrCron(document: ConfigurationDocument, locator: FieldLocator): Problem[] {
  const lists = {
    images: document.images,
    dockerfiles: document.dockerfiles,
    cacheRepositories: document.cacheRepositories,
  };
  return Object.entries(lists).flatMap(([name, list]) =>
    (list ?? []).flatMap((entry, position) =>
      typeof entry === 'object' && entry.refresh !== undefined && entry.cron !== undefined
        ? [locator.problem([name, position, 'cron'], 'refresh is there as well', 'Keep one of the two.')]
        : [],
    ),
  );
}

/** The same image twice would have two schedules. */
function repeatedImages(document: ConfigurationDocument, locator: FieldLocator): Problem[] {
  const seen = new Map<string, number>();
  return (document.images ?? []).flatMap((entry, position) => {
    const { reference, platforms } = typeof entry === 'string' ? { reference: entry } : entry;
    const names = platforms?.map((platform) => formatPlatform(parsePlatform(platform))) ?? ['default'];
    const repeated = names.flatMap((platform) => {
      const key = `${formatReference(parseReference(reference))} ${platform}`;
      const first = seen.get(key);
      if (first === undefined) seen.set(key, position);
      return first === undefined ? [] : [first];
    });
    const path: FieldPath = ['images', position];
    return repeated.length === 0
      ? []
      : [locator.problem(path, `images[${String(repeated[0])}] is the same image`, 'Keep one of the two.')];
  });
}

function waterMarks(document: ConfigurationDocument, locator: FieldLocator): Problem[] {
  const { highWaterMark = '80%', lowWaterMark = '75%' } = document.disk ?? {};
  if (parseShare(lowWaterMark) < parseShare(highWaterMark)) return [];
  const field = document.disk?.lowWaterMark === undefined ? 'highWaterMark' : 'lowWaterMark';
  return [
    locator.problem(
      ['disk', field],
      `lowWaterMark (${lowWaterMark}) must be below highWaterMark (${highWaterMark})`,
    ),
  ];
}

function registries(document: ConfigurationDocument, locator: FieldLocator): Problem[] {
  const hosts = (document.registries ?? []).map(({ host }) => host);
  return (document.registries ?? []).flatMap((registry, position) => {
    const at = (field: string): FieldPath => ['registries', position, field];
    const problems: Problem[] = [];
    if (hosts.indexOf(registry.host) !== position)
      problems.push(
        locator.problem(at('host'), `${registry.host} is there twice`, 'Put its fields together.'),
      );
    if ((registry.clientCertificate === undefined) !== (registry.clientKey === undefined))
      problems.push(
        locator.problem(
          at(registry.clientKey === undefined ? 'clientCertificate' : 'clientKey'),
          'a certificate and its key are given together',
        ),
      );
    return problems;
  });
}

/** What a schema cannot say. */
export const documentChecks: readonly DocumentCheck[] = [
  refreshOrCron,
  repeatedImages,
  waterMarks,
  registries,
];
