import { UsageError } from '../support/index.ts';
import { type Digest, isDigest } from './digest.ts';

/** An image reference in full: registry, repository, and a tag or a digest (or both). */
export interface Reference {
  /** Host and port, `docker.io` for Docker Hub. */
  readonly registry: string;
  /** Path below the registry, `library/debian`. */
  readonly repository: string;
  readonly tag?: string;
  readonly digest?: Digest;
}

// Grammar of the distribution project's reference package: path components, tag, host.
const component = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const tagPattern = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;
const hostPattern =
  /^(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?$/;

/**
 * Parses a reference as Docker users write it: `debian`, `debian:12`, `localhost:5000/a/b@sha256:…`.
 * The first component is a registry when it has a dot, a port, or is `localhost`.
 * Without tag and digest the tag is `latest`.
 *
 * @throws UsageError naming what is wrong with it.
 */
export function parseReference(text: string): Reference {
  const invalid = (why: string): UsageError =>
    new UsageError(`invalid image reference "${text}": ${why}`, {
      code: 'E_REFERENCE_INVALID',
      remedy: 'Write it as [registry/]repository[:tag][@sha256:digest].',
    });
  let rest = text;
  let digest: Digest | undefined;
  const at = rest.indexOf('@');
  if (at >= 0) {
    const digestText = rest.slice(at + 1);
    if (!isDigest(digestText)) throw invalid('the digest must be sha256: and 64 hexadecimal digits');
    digest = digestText;
    rest = rest.slice(0, at);
  }
  let tag: string | undefined;
  const colon = rest.lastIndexOf(':');
  if (colon > rest.lastIndexOf('/')) {
    tag = rest.slice(colon + 1);
    rest = rest.slice(0, colon);
    if (!tagPattern.test(tag)) throw invalid(`the tag "${tag}" has a character that tags cannot have`);
  }
  const { registry, repository } = splitRegistry(rest);
  if (!hostPattern.test(registry)) throw invalid(`"${registry}" is not a registry host`);
  if (repository === '') throw invalid('the repository is missing');
  if (repository.length > 255) throw invalid('the repository is longer than 255 characters');
  for (const part of repository.split('/')) {
    if (part !== part.toLowerCase()) throw invalid('repository names are lower case');
    if (!component.test(part)) throw invalid(`"${part}" cannot be part of a repository name`);
  }
  if (tag === undefined && digest === undefined) tag = 'latest';
  return {
    registry,
    repository,
    ...(tag === undefined ? {} : { tag }),
    ...(digest === undefined ? {} : { digest }),
  };
}

function splitRegistry(name: string): { registry: string; repository: string } {
  const slash = name.indexOf('/');
  const first = slash < 0 ? '' : name.slice(0, slash);
  if (slash >= 0 && (/[.:]/.test(first) || first === 'localhost' || first !== first.toLowerCase())) {
    const registry = first === 'index.docker.io' ? 'docker.io' : first;
    const repository = name.slice(slash + 1);
    const official = registry === 'docker.io' && repository !== '' && !repository.includes('/');
    return { registry, repository: official ? `library/${repository}` : repository };
  }
  return { registry: 'docker.io', repository: name !== '' && slash < 0 ? `library/${name}` : name };
}

/** The reference in full, as error messages and the index write it. */
export function formatReference(reference: Reference): string {
  const tag = reference.tag === undefined ? '' : `:${reference.tag}`;
  const digest = reference.digest === undefined ? '' : `@${reference.digest}`;
  return `${reference.registry}/${reference.repository}${tag}${digest}`;
}

/** What a manifest is asked for by: the digest when there is one, otherwise the tag. */
export function referenceTarget(reference: Reference): string {
  return reference.digest ?? reference.tag ?? 'latest';
}
