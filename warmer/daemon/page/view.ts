import type { WarmingImage } from '../types.ts';
import { groupOf, type StateGroup, stateGroups, stateOf } from './state.ts';

/** What the table of images can be sorted by. */
export const sortKeys = ['image', 'state', 'size', 'checked', 'next', 'used'] as const;
export type SortKey = (typeof sortKeys)[number];

/** What a visitor asked to see; it is all in the address, so that it works without script and can be passed on. */
export interface View {
  /** Words that the reference of an image must have, all of them. */
  readonly query: string;
  readonly group: StateGroup | undefined;
  readonly sort: SortKey;
  readonly descending: boolean;
  /** All rows, and not only the first ones. */
  readonly all: boolean;
}

export const plainView: View = { query: '', group: undefined, sort: 'state', descending: false, all: false };

/** Reads an address; what makes no sense is as if it were not there. */
export function readView(parameters: URLSearchParams): View {
  const group = parameters.get('state');
  const sort = parameters.get('sort');
  return {
    query: (parameters.get('q') ?? '').trim().slice(0, 200),
    group: stateGroups.find((known) => known === group),
    sort: sortKeys.find((known) => known === sort) ?? plainView.sort,
    descending: parameters.get('order') === 'desc',
    all: parameters.get('show') === 'all',
  };
}

/** The address of the view with something changed. */
export function linkTo(view: View, change: Partial<View>): string {
  const { query, group, sort, descending, all } = { ...view, ...change };
  const parameters = new URLSearchParams();
  if (query !== '') parameters.set('q', query);
  if (group !== undefined) parameters.set('state', group);
  if (sort !== plainView.sort) parameters.set('sort', sort);
  if (descending) parameters.set('order', 'desc');
  if (all) parameters.set('show', 'all');
  return `/${parameters.size === 0 ? '' : `?${parameters.toString()}`}`;
}

/** The images that a view's words leave, whatever their state. */
export function search(images: readonly WarmingImage[], { query }: View): WarmingImage[] {
  const words = query.toLowerCase().split(/\s+/);
  return images.filter(({ reference, platform, usedBy }) => {
    const text = `${reference} ${platform} ${usedBy.join(' ')}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

/** The images of a view, in its order. */
export function select(found: readonly WarmingImage[], view: View): WarmingImage[] {
  const { group, descending } = view;
  const order = orders[view.sort];
  const byName = (a: WarmingImage, b: WarmingImage): number =>
    compare(a.reference, b.reference) || compare(a.platform, b.platform);
  return found
    .filter((image) => group === undefined || groupOf(stateOf(image)) === group)
    .sort((a, b) => (descending ? order(b, a) : order(a, b)) || byName(a, b));
}

type Order = (a: WarmingImage, b: WarmingImage) => number;

function compare(a: string | number, b: string | number): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** What an image has no value of sorts after the others, or before them when they descend. */
const by =
  (value: (image: WarmingImage) => string | number | undefined): Order =>
  (a, b) => {
    const [first, second] = [value(a), value(b)];
    if (first === undefined || second === undefined)
      return Number(first === undefined) - Number(second === undefined);
    return compare(first, second);
  };

/** What needs a person first, then what moves, then what is well. */
const urgency = ['failed', 'stale', 'pulling', 'checking', 'waiting', 'warm'];

const orders: Readonly<Record<SortKey, Order>> = {
  image: by(({ reference }) => reference),
  state: by((image) => urgency.indexOf(stateOf(image))),
  size: by(({ size }) => size),
  checked: by(({ checkedAt }) => checkedAt?.getTime()),
  next: by(({ nextRefreshAt }) => nextRefreshAt?.getTime()),
  used: by(({ lastUsedAt, usedBy }) => (usedBy.length > 0 ? Infinity : lastUsedAt?.getTime())),
};
