import { html } from 'hono/html';
import { formatBytes } from '../../../src/support/index.ts';
import type { ImageSource, WarmingImage } from '../types.ts';
import { count, type Html, percentage, reference, time, whole, words } from './format.ts';
import { groupLabels, groupOf, stateGroups, stateLabels, stateOf } from './state.ts';
import { linkTo, search, select, type SortKey, sortKeys, type View } from './view.ts';

/** Rows that are shown until more are asked for: a node may have thousands of images, and a phone may look at them. */
export const firstRows = 100;

const columns: Readonly<Record<SortKey, string>> = {
  image: 'Image',
  state: 'State',
  size: 'Size',
  checked: 'Checked',
  next: 'Next refresh',
  used: 'Last used',
};

const sources: Readonly<Record<ImageSource, string>> = {
  configured: 'configured',
  dockerfile: 'from a Dockerfile',
  'cache-repository': 'from a cache repository',
  adopted: 'adopted: builds missed it',
  'on-demand': 'fetched for a build',
  unmanaged: 'on the volume, not refreshed',
};

/** All images, with what finds them among many. */
export function imageSection(images: readonly WarmingImage[], view: View, now: Date): Html {
  const found = search(images, view);
  const selected = select(found, view);
  const shown = view.all ? selected : selected.slice(0, firstRows);
  return html`<section class="card images" data-key="images" aria-labelledby="images-title">
    <div class="bar">
      <h2 id="images-title" tabindex="-1">Images</h2>
      ${filters(found, view)}
    </div>
    <p class="${shown.length === images.length ? 'hidden' : 'quiet'}" role="status" id="found">
      ${foundText(images, selected, shown)}
    </p>
    ${selected.length === 0 ? html`<p class="empty">${emptyText(images)}</p>` : table(shown, view, now)}
    ${
      shown.length < selected.length
        ? html`<p class="more">
            <a href="${linkTo(view, { all: true })}" data-view>Show all ${whole(selected.length)} images</a>
          </p>`
        : ''
    }
  </section>`;
}

function foundText(
  images: readonly WarmingImage[],
  selected: readonly WarmingImage[],
  shown: readonly WarmingImage[],
): string {
  const all = count(images.length, 'image');
  if (shown.length < selected.length)
    return `The first ${whole(shown.length)} of ${count(selected.length, 'image')}`;
  return selected.length < images.length ? `${whole(selected.length)} of ${all}` : all;
}

function emptyText(images: readonly WarmingImage[]): string {
  return images.length === 0
    ? 'No image is configured, and none is on the volume. Name some in the configuration, or allow builds to ask for them.'
    : 'No image matches.';
}

function filters(found: readonly WarmingImage[], view: View): Html {
  const groups = Map.groupBy(found, (image) => groupOf(stateOf(image)));
  const chip = (group: View['group'], label: string, number: number): Html =>
    html`<a
      href="${linkTo(view, { group, all: false })}"
      data-view
      ${view.group === group ? html`aria-current="true"` : ''}
      >${label} <span class="number">${whole(number)}</span></a
    >`;
  return html`<nav class="chips" aria-label="State of the images">
      ${chip(undefined, 'All', found.length)}
      ${stateGroups.map((group) => chip(group, groupLabels[group], groups.get(group)?.length ?? 0))}
    </nav>
    <form method="get" action="/" role="search" data-view>
      ${view.group === undefined ? '' : html`<input type="hidden" name="state" value="${view.group}" />`}
      <label class="narrow"
        >Sort by
        <select name="sort">
          ${sortKeys.map((key) => html`<option value="${key}" ${view.sort === key ? 'selected' : ''}>${columns[key]}</option>`)}
        </select></label
      >
      ${view.descending ? html`<input type="hidden" name="order" value="desc" />` : ''}
      <label
        ><span class="hidden">Find images by name</span>
        <input
          type="search"
          name="q"
          value="${view.query}"
          placeholder="Find images"
          autocomplete="off"
          spellcheck="false"
          maxlength="200"
      /></label>
      <noscript><button>Find</button></noscript>
    </form>`;
}

/** On a narrow screen rows are laid out as blocks; the roles keep it a table for those who do not see it. */
function table(images: readonly WarmingImage[], view: View, now: Date): Html {
  return html`<table role="table" aria-labelledby="images-title">
    <thead role="rowgroup">
      <tr role="row">
        ${sortKeys.map((key) => heading(key, view))}
      </tr>
    </thead>
    <tbody role="rowgroup">
      ${images.map((image) => row(image, now))}
    </tbody>
  </table>`;
}

function heading(key: SortKey, view: View): Html {
  const sorted = view.sort === key;
  const direction = view.descending ? 'descending' : 'ascending';
  const link = linkTo(view, { sort: key, descending: sorted && !view.descending });
  return html`<th
    role="columnheader"
    scope="col"
    class="${key}"
    ${sorted ? html`aria-sort="${direction}"` : ''}
  >
    <a href="${link}" data-view>${columns[key]}</a>
  </th>`;
}

function row(image: WarmingImage, now: Date): Html {
  const { usedBy, uses } = image;
  const key = `${image.reference} ${image.platform}`;
  return html`<tr role="row" data-key="${key}">
    <th role="rowheader" scope="row" class="image">
      ${reference(image.reference)}
      <span class="note">${image.platform} · ${sources[image.source]}${image.pinned ? ' · pinned' : ''}</span>
      ${usedBy.length === 0 ? '' : html`<span class="note using">in use by ${words(usedBy.join(', '), 120)}</span>`}
    </th>
    <td role="cell" class="state">${state(image, now)}</td>
    <td role="cell" class="size">
      ${image.size === undefined ? html`<span class="none">–</span>` : formatBytes(image.size)}
    </td>
    <td role="cell" class="checked">
      <span class="narrow">Checked</span> ${time(image.checkedAt, now, 'never')}
    </td>
    <td role="cell" class="next">
      <span class="narrow">Next refresh</span> ${time(image.nextRefreshAt, now)}
    </td>
    <td role="cell" class="used">
      <span class="narrow">Used</span>
      ${usedBy.length > 0 ? 'now' : time(image.lastUsedAt, now, 'never')}${uses > 0 ? html` <span class="number">${whole(uses)}×</span>` : ''}
    </td>
  </tr>`;
}

function state(image: WarmingImage, now: Date): Html {
  const name = stateOf(image);
  const { transfer, lastError, failures } = image;
  const share =
    transfer === undefined || transfer.total === 0 ? '' : ` ${percentage(transfer.bytes, transfer.total)}`;
  return html`<span class="badge ${name}">${stateLabels[name]}${share}</span>
    ${transfer === undefined ? '' : progressBar(transfer, `Pulling ${image.reference}`)}
    ${
      lastError === undefined || groupOf(name) !== 'failing'
        ? ''
        : html`<span class="note error" title="${lastError.code}: ${lastError.message}"
              >${words(lastError.message, 160)}
              (${time(lastError.at, now)}${failures > 1 ? `, ${whole(failures)} times in a row` : ''})</span
            >${lastError.remedy === undefined ? '' : html`<span class="note">${lastError.remedy}</span>`}`
    }`;
}

export function progressBar(
  { bytes, total }: { readonly bytes: number; readonly total: number },
  label: string,
): Html {
  return html`<progress
      max="${Math.max(total, 1)}"
      value="${Math.min(bytes, Math.max(total, 1))}"
      aria-label="${label}"
    ></progress>
    <span class="note">${formatBytes(bytes)} of ${formatBytes(total)}</span>`;
}
