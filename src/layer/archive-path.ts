import { KilnError } from '../support/index.ts';

/** The error for an entry that a well-made archive has not. @param path latin1. */
export function unsafe(path: string, why: string): KilnError {
  return new KilnError(
    `unsafe entry ${JSON.stringify(Buffer.from(path, 'latin1').toString())} in archive: ${why}`,
    {
      code: 'E_TAR_UNSAFE',
      category: 'registry',
      remedy: 'The archive is hostile or damaged; do not use it.',
    },
  );
}

/** The components of an archive's path. @throws KilnError `E_TAR_UNSAFE` for `..`. */
export function splitPath(path: Buffer): string[] {
  const text = path.toString('latin1');
  if (text.includes('\0')) throw unsafe(text, 'its name has a NUL byte');
  const components = text.split('/').filter((part) => part !== '' && part !== '.');
  if (components.includes('..')) throw unsafe(text, 'its path leads upwards');
  if (components.some((part) => part.length > 255)) throw unsafe(text.slice(0, 300), 'its name is too long');
  return components;
}
