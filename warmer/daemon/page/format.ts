import { html } from 'hono/html';

/** Markup whose every value has been escaped: a tagged template of hono/html makes it, nothing else may. */
export type Html = ReturnType<typeof html>;

/** The text of markup. Without values that are promises, which are used nowhere here, the template makes no promise. */
export function textOf(markup: Html): string {
  if (markup instanceof Promise) throw new TypeError('markup has a value that is a promise');
  return markup.toString();
}

const units: readonly (readonly [Intl.RelativeTimeFormatUnit, number])[] = [
  ['day', 86_400_000],
  ['hour', 3_600_000],
  ['minute', 60_000],
];

/** `3 minutes ago`, `in 2 hours`; nothing below a minute, so that a page that does not change stays the same. */
export function relativeTime(date: Date, now: Date): string {
  const milliseconds = date.getTime() - now.getTime();
  for (const [unit, size] of units) {
    const count = Math.trunc(milliseconds / size);
    if (count !== 0) return new Intl.RelativeTimeFormat('en').format(count, unit);
  }
  return milliseconds <= 0 ? 'just now' : 'in a moment';
}

/** `last day`, `last 3 hours`: the time from a moment until now. */
export function lastTime(from: Date, now: Date): string {
  return `last ${duration(now.getTime() - from.getTime()).replace(/^1 /, '')}`;
}

/** `5 minutes`, `1 hour`, `3 days`: a length of time in the unit that fits, at least a minute. */
export function duration(milliseconds: number): string {
  const rounded = Math.max(milliseconds, 60_000);
  const [unit, size] = units.find(([, length]) => rounded >= length) ?? ['minute', 60_000];
  return count(Math.round(rounded / size), unit);
}

/** A point in time as people say it, with the exact one for those who point at it and for programs. */
export function time(date: Date | undefined, now: Date, otherwise = '–'): Html {
  if (date === undefined) return html`<span class="none">${otherwise}</span>`;
  const exact = date.toISOString();
  return html`<time datetime="${exact}" title="${exact}">${relativeTime(date, now)}</time>`;
}

/** `1 image`, `2,000 images`. */
export function count(number: number, one: string, many = `${one}s`): string {
  return `${whole(number)} ${number === 1 ? one : many}`;
}

export function whole(number: number): string {
  return number.toLocaleString('en');
}

/** Per cent of a part, cut and not rounded: 100 means all. */
export function percentage(part: number, all: number): string {
  return all === 0 ? '–' : `${Math.floor((part / all) * 100)}\u00a0%`;
}

/** A reference with its parts told apart, and places where a long one may be broken. */
export function reference(name: string): Html {
  const at = name.indexOf('@');
  const digest = at < 0 ? '' : name.slice(at);
  const rest = at < 0 ? name : name.slice(0, at);
  const colon = rest.lastIndexOf(':');
  const tag = colon > rest.lastIndexOf('/') ? rest.slice(colon) : '';
  const path = tag === '' ? rest : rest.slice(0, colon);
  const slash = path.indexOf('/');
  const registry = path.slice(0, slash + 1);
  const parts = path.slice(slash + 1).split('/');
  const shortDigest = digest.replace(/^(@sha256:[0-9a-f]{12})[0-9a-f]+$/, '$1…');
  return html`<bdi
    ><span class="registry">${registry}</span><wbr /><span class="repository"
      >${parts.map((part, index) => html`${index === 0 ? '' : '/'}<wbr />${part}`)}</span
    ><wbr /><span class="tag">${tag}</span
    >${digest === '' ? '' : html`<wbr /><span class="tag" title="${digest}">${shortDigest}</span>`}</bdi
  >`;
}

/** Words of others, such as errors: cut, and kept from turning the direction of what stands beside them. */
export function words(text: string, length: number): Html {
  return html`<bdi>${text.length > length ? `${text.slice(0, length - 1)}…` : text}</bdi>`;
}
