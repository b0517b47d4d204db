import { html } from 'hono/html';
import { formatBytes, formatSeconds } from '../../../src/support/index.ts';
import type { PullOutcome, PullRecord, WarmingImage, WarmingStatus } from '../types.ts';
import { count, type Html, lastTime, percentage, reference, time, whole, words } from './format.ts';
import { asked, columnsOf, overallRate } from './hit-rate.ts';
import { progressBar } from './image-table.ts';
import { hitRatePlot } from './plot.ts';
import { stateOf } from './state.ts';
import { linkTo, plainView } from './view.ts';

/** What a person has to look at, and what can be done about it; nothing when all is well. */
export function attention(status: WarmingStatus, now: Date): Html {
  const { checks, configuration, images, disk } = status;
  const items: Html[] = checks
    .filter(({ ok }) => !ok)
    .map(({ name, detail }) =>
      item(html`<strong>Check “${name}” fails</strong>: ${words(detail, 300)}`, checkRemedies[name]),
    );
  if (configuration.rejected !== undefined)
    items.push(
      item(
        html`<strong>A newer configuration was rejected</strong> ${time(configuration.rejected.at, now)}:
          <span class="verbatim">${words(configuration.rejected.message, 600)}</span>`,
        'The one before it stays in force. Mend the file: it is read again by itself.',
      ),
    );
  items.push(...failing(images, 'failed'), ...failing(images, 'stale'));
  const taken = disk.total - disk.free;
  if (disk.high !== undefined && taken > disk.high)
    items.push(
      item(
        html`<strong>The disk is fuller than it may be</strong>: ${formatBytes(taken)} used, and pruned from
          ${formatBytes(disk.high)}`,
        'What is configured, pinned or in use stays. Configure fewer images, remove other files, or give the volume more room.',
      ),
    );
  if (items.length === 0) return html``;
  const grave = !status.ready || images.some((image) => stateOf(image) === 'failed');
  return html`<section
    class="card attention ${grave ? 'grave' : ''}"
    data-key="attention"
    aria-labelledby="attention-title"
  >
    <h2 id="attention-title">Needs attention</h2>
    <ul>
      ${items}
    </ul>
  </section>`;
}

const checkRemedies: Readonly<Record<string, string>> = {
  volume: 'Builds go on with what is there; nothing new can be brought until the volume can be written.',
  images: 'Builds fetch for themselves what is missing. The reasons stand beside the images below.',
};

function item(what: Html, remedy: string | undefined): Html {
  return html`<li>${what}${remedy === undefined ? '' : html`<span class="remedy">${remedy}</span>`}</li>`;
}

/** Images in one of the states that are somebody's business, as one line: often all of them have one reason. */
function failing(images: readonly WarmingImage[], state: 'failed' | 'stale'): Html[] {
  const found = images.filter((image) => stateOf(image) === state);
  const [first] = found;
  if (first === undefined) return [];
  const what =
    state === 'failed'
      ? `${found.length === 1 ? 'is' : 'are'} missing and cannot be brought`
      : `cannot be refreshed; builds go on with what is there`;
  return [
    item(
      html`<strong
          ><a href="${linkTo(plainView, { group: 'failing' })}" data-view>${count(found.length, 'image')}</a>
          ${what}</strong
        >: ${found.length > 1 ? 'first of all ' : ''}${reference(first.reference)}:
        ${words(first.lastError?.message ?? 'no reason is known', 300)}`,
      first.lastError?.remedy,
    ),
  ];
}

export function hitRatePanel({ hitRate }: WarmingStatus, now: Date): Html {
  const { hits, all } = overallRate(hitRate);
  const columns = columnsOf(hitRate, now);
  const first = hitRate.find((sample) => asked(sample) > 0);
  return html`<section class="card" aria-labelledby="rate-title">
    <h2 id="rate-title">Hit rate</h2>
    <p class="figure">${percentage(hits, all)}</p>
    ${
      first === undefined
        ? html`<p class="empty">
            No build has reported yet. This is how many of the base images that builds need are warm.
          </p>`
        : html`<p class="quiet">
              of ${count(all, 'base image')} that builds needed in the ${lastTime(first.at, now)}
              ${all === 1 ? 'was' : 'were'} warm
            </p>
            ${hitRatePlot(columns, now)}`
    }
  </section>`;
}

export function diskPanel({ disk }: WarmingStatus): Html {
  const { used, free, total, high, low } = disk;
  const other = Math.max(0, total - free - used);
  const share = (bytes: number): number => (total === 0 ? 0 : Math.round((bytes / total) * 1000) / 10);
  const bounds = [
    ...(high === undefined ? [] : [`pruned when ${formatBytes(high)} are used`]),
    ...(low === undefined ? [] : [`down to ${formatBytes(low)}`]),
  ].join(' ');
  const mark = (bytes: number | undefined): Html =>
    bytes === undefined ? html`` : html`<path class="mark" d="M${share(Math.min(bytes, total))} 0V10" />`;
  return html`<section class="card" aria-labelledby="disk-title">
    <h2 id="disk-title">Disk</h2>
    <p class="figure">${formatBytes(used)}</p>
    <p class="quiet">in images and layers; the disk is ${percentage(total - free, total)} full</p>
    <svg class="disk" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-labelledby="disk-text">
      <title id="disk-text">
        ${formatBytes(used)} of ${formatBytes(total)} used by the volume, ${formatBytes(free)} free
      </title>
      <rect class="free" width="100" height="10" />
      <rect class="used" width="${share(used)}" height="10" />
      <rect class="other" x="${share(used)}" width="${share(other)}" height="10" />
      ${mark(low)}${mark(high)}
    </svg>
    <ul class="legend">
      <li class="used">${formatBytes(used)} images</li>
      <li class="other">${formatBytes(other)} other files</li>
      <li class="free">${formatBytes(free)} free</li>
      ${bounds === '' ? '' : html`<li class="mark">${bounds}</li>`}
    </ul>
  </section>`;
}

/** What goes on at this moment: builds that run, and images on their way. */
export function nowPanel({ builds, images }: WarmingStatus, now: Date): Html {
  const moving = images.filter(({ transfer, phase }) => phase === 'pulling' || transfer !== undefined);
  const shown = 3;
  return html`<section class="card" aria-labelledby="now-title">
    <h2 id="now-title">Now</h2>
    <p class="figure">
      ${whole(builds.length)}<small> ${builds.length === 1 ? 'build runs' : 'builds run'}</small>
      <span class="second"
        >${whole(moving.length)}<small>
          ${moving.length === 1 ? 'image is' : 'images are'} on the way</small
        ></span
      >
    </p>
    <ul class="now">
      ${moving
        .slice(0, shown)
        .map(
          (image) =>
            html`<li data-key="pull ${image.reference} ${image.platform}">
              ${reference(image.reference)}
              ${image.transfer === undefined ? '' : progressBar(image.transfer, `Pulling ${image.reference}`)}
            </li>`,
        )}
      ${moving.length > shown ? html`<li class="quiet"><a href="${linkTo(plainView, { group: 'moving' })}" data-view>and ${count(moving.length - shown, 'more image')}</a></li>` : ''}
      ${builds.slice(0, shown).map(
        ({ build, label, images: bases, since }) =>
          html`<li data-key="build ${build}">
            <span class="label">${words(label, 120)}</span>
            <span class="note"
              >since ${time(since, now)}, on
              ${bases.length === 0 ? 'no base image' : words(bases.map((base) => base.reference).join(', '), 160)}</span
            >
          </li>`,
      )}
      ${builds.length > shown ? html`<li class="quiet">and ${count(builds.length - shown, 'more build')}</li>` : ''}
    </ul>
    ${builds.length + moving.length === 0 ? html`<p class="empty">It is quiet: no build runs, and no image is on its way.</p>` : ''}
  </section>`;
}

const outcomes: Readonly<Record<PullOutcome, { readonly label: string; readonly state: string }>> = {
  pulled: { label: 'Pulled', state: 'warm' },
  fresh: { label: 'Unchanged', state: 'waiting' },
  failed: { label: 'Failed', state: 'failed' },
  rate_limited: { label: 'Rate limited', state: 'stale' },
  skipped_disk: { label: 'No space', state: 'stale' },
};

const reasons: Readonly<Record<PullRecord['reason'], string>> = {
  schedule: 'schedule',
  build: 'a build',
  start: 'start',
  change: 'configuration',
};

/** What was brought or refreshed lately. */
export function pullSection({ pulls }: WarmingStatus, now: Date): Html {
  const shown = pulls.slice(0, 20);
  return html`<section class="card pulls" data-key="pulls" aria-labelledby="pulls-title">
    <h2 id="pulls-title">Recent pulls</h2>
    ${
      shown.length === 0
        ? html`<p class="empty">Nothing has been pulled since the daemon started.</p>`
        : html`<table role="table" aria-labelledby="pulls-title">
            <thead role="rowgroup">
              <tr role="row">
                ${['Image', 'Result', 'When', 'Took', 'Fetched', 'Asked for by'].map((name) => html`<th role="columnheader" scope="col">${name}</th>`)}
              </tr>
            </thead>
            <tbody role="rowgroup">
              ${shown.map((pull) => pullRow(pull, now))}
            </tbody>
          </table>`
    }
  </section>`;
}

function pullRow(pull: PullRecord, now: Date): Html {
  const { label, state } = outcomes[pull.outcome];
  return html`<tr role="row" data-key="${pull.startedAt.toISOString()} ${pull.reference} ${pull.platform}">
    <th role="rowheader" scope="row" class="image">
      ${reference(pull.reference)} <span class="note">${pull.platform}</span>
    </th>
    <td role="cell" class="state">
      <span class="badge ${state}">${label}</span>
      ${pull.error === undefined ? '' : html`<span class="note error" title="${pull.error}">${words(pull.error, 160)}</span>`}
    </td>
    <td role="cell" class="when">${time(pull.startedAt, now)}</td>
    <td role="cell" class="size">${formatSeconds(pull.seconds)}</td>
    <td role="cell" class="size">
      ${pull.bytes === 0 ? html`<span class="none">–</span>` : formatBytes(pull.bytes)}
    </td>
    <td role="cell" class="quiet">${reasons[pull.reason]}</td>
  </tr>`;
}
