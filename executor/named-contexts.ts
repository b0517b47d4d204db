import { resolve } from 'node:path';
import { contextKey, type Origin } from '../src/dockerfile/index.ts';
import {
  chooseByPlatform,
  decodeIndex,
  type Descriptor,
  formatPlatform,
  type Image,
  indexMediaTypes,
  maximumDocumentSize,
  parseReference,
  type Platform,
  platformServes,
} from '../src/oci/index.ts';
import { BuildError, UsageError } from '../src/support/index.ts';
import { layersOf, OciLayout, readImage } from '../src/volume/index.ts';
import { type BaseImage, fromStored } from './base-image.ts';
import { type BuildContext, openContext } from './context/index.ts';
import { type ContextAddress, parseContext, type RemoteContext } from './context/kinds/index.ts';

/** Where the files of a named context are. */
type ContextSource =
  ContextAddress | { readonly kind: 'layout'; readonly directory: string; readonly name: string };

/** Values of `--build-context`, by the names that they stand for in a Dockerfile. */
export interface NamedContextSources {
  /** What each name means: an image, or a context of that name. */
  readonly origins: ReadonlyMap<string, Origin>;
  readonly sources: ReadonlyMap<string, ContextSource>;
}

/** A named context: a tree to copy, or an image. */
export type OpenedContext =
  | { readonly kind: 'tree'; readonly tree: BuildContext; readonly name: string }
  | { readonly kind: 'image'; readonly image: BaseImage };

/**
 * Reads values of `--build-context`: `name=docker-image://reference`, `name=oci-layout://directory[:tag]` (or `@digest`), and `name=` with
 * the address of a context of any kind but standard input.
 *
 * @throws UsageError `E_CONTEXT_…`.
 */
export function parseBuildContexts(values: readonly string[]): NamedContextSources {
  const origins = new Map<string, Origin>();
  const sources = new Map<string, ContextSource>();
  for (const value of values) {
    const equals = value.indexOf('=');
    const [name, text] = [value.slice(0, Math.max(0, equals)), value.slice(equals + 1)];
    if (name === '' || text === '')
      throw new UsageError(`--build-context ${value} cannot be understood`, {
        code: 'E_CONTEXT_NAME',
        remedy: 'Write --build-context NAME=DIRECTORY.',
      });
    const key = contextKey(name);
    if (origins.has(key))
      throw new UsageError(`--build-context ${name} is given twice`, { code: 'E_CONTEXT_NAME' });
    const image = /^docker-image:\/\/(.+)$/.exec(text)?.[1];
    if (image === undefined) {
      origins.set(key, { kind: 'context', name });
      sources.set(name, sourceOf(name, text));
    } else if (image === 'scratch') origins.set(key, { kind: 'scratch' });
    else {
      parseReference(image);
      origins.set(key, { kind: 'image', name: image });
    }
  }
  return { origins, sources };
}

function sourceOf(name: string, text: string): ContextSource {
  const layout =
    /^oci-layout:\/\/(.+?)(?:@(sha256:[0-9a-f]{64})|:([a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}))?$/.exec(text);
  if (layout !== null)
    return { kind: 'layout', directory: resolve(layout[1] ?? ''), name: layout[2] ?? layout[3] ?? 'latest' };
  const address = parseContext(text, `--build-context ${name}`);
  if (address.kind !== 'standard-input') return address;
  throw new UsageError(`--build-context ${name} cannot be read from standard input`, {
    code: 'E_CONTEXT_UNSUPPORTED',
    remedy: 'Only the build context itself can: --context tar://stdin.',
  });
}

/** The directory of this machine that a context is in; undefined for one from elsewhere. */
export function contextPath(source: ContextSource): string | undefined {
  if (source.kind === 'layout') return source.directory;
  return source.kind === 'directory' || source.kind === 'file' ? source.path : undefined;
}

/** Brings a context here; the Dockerfile and line that need it. @returns its directory. */
type FetchContext = (address: RemoteContext, where: string) => Promise<string>;

/** The named contexts of a build; each is opened when something needs it, and once. */
export class NamedContexts {
  readonly #sources: NamedContextSources['sources'];
  readonly #fetch: FetchContext;
  /** By name, and of layouts by name and platform. */
  readonly #opened = new Map<string, Promise<OpenedContext>>();

  constructor(sources: NamedContextSources['sources'], fetch: FetchContext) {
    this.#sources = sources;
    this.#fetch = fetch;
  }

  /** @param where the Dockerfile and line that need it. */
  open(name: string, platform: Platform, where: string): Promise<OpenedContext> {
    const { kind } = this.#sources.get(name) ?? {};
    const key = kind === 'layout' ? `${name} ${formatPlatform(platform)}` : name;
    const known = this.#opened.get(key);
    if (known !== undefined) return known;
    const opened = this.#open(name, platform, where);
    this.#opened.set(key, opened);
    return opened;
  }

  async #open(name: string, platform: Platform, where: string): Promise<OpenedContext> {
    const source = this.#sources.get(name);
    if (source === undefined) throw new Error(`there is no context ${name}`);
    if (source.kind === 'layout')
      return { kind: 'image', image: await imageOfLayout(name, source, platform, where) };
    const root = source.kind === 'directory' ? undefined : await this.#fetch(source, where);
    const directory = source.kind === 'directory' ? source.path : (root ?? '');
    // Only its own .dockerignore counts, not one that belongs to a Dockerfile.
    return {
      kind: 'tree',
      tree: await openContext(directory, undefined, root),
      name: `the context ${name}`,
    };
  }
}

/** The image of an OCI layout, or of an index in it the one for the platform. */
async function imageOfLayout(
  name: string,
  source: Extract<ContextSource, { kind: 'layout' }>,
  platform: Platform,
  where: string,
): Promise<BaseImage> {
  const layout = await OciLayout.open(source.directory, { access: 'read-only' });
  const image = await readImage(layout, await findImage(layout, source, platform, where));
  if (!platformServes(image.config, platform)) throw noPlatform(source, [image.config], platform, where);
  const reference = { ...parseReference(contextKey(name)), digest: image.descriptor.digest };
  return fromStored(
    { ...(image satisfies Image), layers: layersOf(layout, image) },
    { reference, platform, origins: [] },
  );
}

async function findImage(
  layout: OciLayout,
  source: Extract<ContextSource, { kind: 'layout' }>,
  platform: Platform,
  where: string,
): Promise<Descriptor> {
  const entries = await layout.readIndex();
  const named = await layout.descriptorsNamed(source.name);
  const found =
    entries.find(({ digest }) => digest === source.name) ?? chooseByPlatform(named, platform) ?? named[0];
  if (found === undefined)
    throw new BuildError(`the layout ${source.directory} has no image ${source.name}`, {
      code: 'E_BASE_NOT_FOUND',
      where,
      remedy: 'Name one of its images: oci-layout://DIRECTORY:TAG, or @DIGEST.',
    });
  if (!indexMediaTypes.includes(found.mediaType)) return found;
  const { manifests } = decodeIndex(await layout.blobs.read(found.digest, maximumDocumentSize), where);
  const match = chooseByPlatform(manifests, platform);
  if (match !== undefined) return match;
  throw noPlatform(
    source,
    manifests.flatMap((entry) => entry.platform ?? []),
    platform,
    where,
  );
}

function noPlatform(
  { directory, name }: { readonly directory: string; readonly name: string },
  has: readonly Platform[],
  wanted: Platform,
  where: string,
): BuildError {
  return new BuildError(`${name} of the layout ${directory} is not for ${formatPlatform(wanted)}`, {
    code: 'E_PLATFORM_NOT_FOUND',
    where,
    remedy: `It is for ${has.map(formatPlatform).join(', ')}.`,
  });
}
