import { formatPlatform, type Platform } from '../src/oci/index.ts';
import { UsageError } from '../src/support/index.ts';

interface Annotation {
  readonly on: 'manifest' | 'index';
  /** Only on the manifest of this platform, as a user writes it. */
  readonly platform: string | undefined;
  readonly key: string;
  readonly value: string;
}

/** What `--annotation` says of the image: annotations of manifests, and of the index when there is one. */
export class Annotations {
  readonly #all: readonly Annotation[];

  /** @param entries `key=value`, with BuildKit's `manifest:`, `manifest[os/arch]:`, `index:` or `index,manifest:` before it. @throws UsageError. */
  constructor(entries: readonly string[] = []) {
    this.#all = entries.flatMap(parse);
  }

  get isEmpty(): boolean {
    return this.#all.length === 0;
  }

  /** Those of the index. */
  get index(): ReadonlyMap<string, string> {
    return asMap(this.#all.filter(({ on }) => on === 'index'));
  }

  /** Those of the manifest of a platform. */
  manifest(platform: Platform): ReadonlyMap<string, string> {
    const name = formatPlatform(platform);
    return asMap(
      this.#all.filter(
        ({ on, platform: only }) => on === 'manifest' && (only === undefined || only === name),
      ),
    );
  }
}

function asMap(annotations: readonly Annotation[]): ReadonlyMap<string, string> {
  return new Map(annotations.map(({ key, value }) => [key, value]));
}

function parse(entry: string): Annotation[] {
  const invalid = (why: string): UsageError =>
    new UsageError(`--annotation ${entry}: ${why}`, {
      remedy: 'Write it as --annotation key=value, or manifest:key=value, or index:key=value.',
    });
  const equals = entry.indexOf('=');
  if (equals <= 0) throw invalid('there is no key, or no value');
  const match = /^(?:([a-z,-]+)(?:\[([A-Za-z0-9_./-]+)\])?:)?([^\s:](?:\S*[^\s:])?)$/.exec(
    entry.slice(0, equals),
  );
  const [, levels = 'manifest', platform, key] = match ?? [];
  if (key === undefined) throw invalid('the key cannot be read');
  return levels.split(',').map((level) => {
    if (level === 'manifest-descriptor' || level === 'index-descriptor')
      throw invalid(`descriptors are not annotated, only manifests and indexes`);
    if (level !== 'manifest' && level !== 'index') throw invalid(`"${level}" is neither manifest nor index`);
    if (level === 'index' && platform !== undefined) throw invalid('an index is of no platform');
    return { on: level, platform, key, value: entry.slice(equals + 1) };
  });
}
