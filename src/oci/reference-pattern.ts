import { UsageError } from '../support/index.ts';
import { formatReference, type Reference } from './reference.ts';

/** Which references something is about. */
export interface ReferencePattern {
  readonly text: string;
  matches(reference: Reference): boolean;
}

/**
 * Parses a pattern of references: `*` stands for any characters of one component, `**` for any at all. Names are
 * completed as in references (`debian*` is `docker.io/library/debian*`). Without a tag or digest every tag and digest
 * of the repository matches; with a tag, also that tag with a digest.
 *
 * @throws UsageError for what can match nothing, and for a lone `*`, which is easily taken for "everything".
 */
export function parseReferencePattern(text: string): ReferencePattern {
  const invalid = (why: string): UsageError =>
    new UsageError(`invalid pattern of references "${text}": ${why}`, {
      code: 'E_PATTERN_INVALID',
      remedy: 'Write it as registry.example/team/**, debian or debian:12*; ** alone is everything.',
    });
  if (text === '*') throw invalid('a lone * is not everything');
  if (!/^[A-Za-z0-9._:/@*[\]-]+$/.test(text)) throw invalid('it has a character that references cannot have');
  const at = text.indexOf('@');
  const digest = at < 0 ? undefined : text.slice(at + 1);
  const named = at < 0 ? text : text.slice(0, at);
  const colon = named.lastIndexOf(':');
  const tag = colon > named.lastIndexOf('/') ? named.slice(colon + 1) : undefined;
  const name = complete(tag === undefined ? named : named.slice(0, colon));
  if (/(^|\/)(\/|$)/.test(name)) throw invalid('a component is empty');
  if (tag === '' || digest === '') throw invalid('the tag or digest is empty');
  const nameExpression = expression(name);
  const tagExpression = tag === undefined ? undefined : expression(tag);
  const digestExpression = digest === undefined ? undefined : expression(digest);
  return {
    text,
    matches: (reference) => {
      const { tag: _tag, digest: _digest, ...repository } = reference;
      return (
        nameExpression.test(formatReference(repository)) &&
        (tagExpression?.test(reference.tag ?? '') ?? true) &&
        (digestExpression?.test(reference.digest ?? '') ?? true)
      );
    },
  };
}

/** The registry and `library/` that a reference without them has. */
function complete(name: string): string {
  const slash = name.indexOf('/');
  const first = slash < 0 ? name : name.slice(0, slash);
  if (first.includes('**')) return name;
  if (slash < 0) return `docker.io/library/${name}`;
  if (/[.:*]/.test(first) || first === 'localhost' || first !== first.toLowerCase())
    return first === 'index.docker.io' ? `docker.io${name.slice(slash)}` : name;
  return `docker.io/${name}`;
}

function expression(pattern: string): RegExp {
  const source = pattern
    .split(/(\*+)/)
    .map((part) => {
      if (part.startsWith('**')) return '.*';
      return part === '*' ? '[^/]*' : part.replace(/[.\\+?^${}()|[\]]/g, '\\$&');
    })
    .join('');
  return new RegExp(`^${source}$`, 's');
}
