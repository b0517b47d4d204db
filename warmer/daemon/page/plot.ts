import { html } from 'hono/html';
import { count, duration, type Html, lastTime, percentage, time, whole } from './format.ts';
import { asked, type Column, type Columns, overallRate } from './hit-rate.ts';

/** The drawing is stretched to the width there is; strokes are not. */
const width = 1000;
const height = 100;

interface Point {
  readonly x: number;
  readonly column: Column;
}

/** How often builds found their base images on the volume, as a line over time, above the number of those they asked for. */
export function hitRatePlot({ columns, step }: Columns, now: Date): Html {
  const band = width / columns.length;
  const points = columns.map((column, index) => ({ x: round((index + 0.5) * band), column }));
  const highest = columns.reduce((most, column) => Math.max(most, asked(column)), 1);
  return html`<figure class="plot">
    <div class="axis" aria-hidden="true"><span>100 %</span><span>50 %</span><span>0 %</span></div>
    <svg
      class="rate"
      viewBox="0 0 ${width} ${height}"
      preserveAspectRatio="none"
      role="img"
      aria-labelledby="plot-title"
    >
      <title id="plot-title">${summary(columns, now)}</title>
      <path class="grid" d="M0 0H${width}M0 50H${width}M0 100H${width}" />
      ${runs(points).map(line)}
    </svg>
    <div class="axis" aria-hidden="true"><span>${whole(highest)}</span><span>0</span></div>
    <svg class="volume" viewBox="0 0 ${width} ${height}" preserveAspectRatio="none" aria-hidden="true">
      <path class="grid" d="M0 0H${width}M0 100H${width}" />
      ${points.map((point) => bar(point, band, highest))}
    </svg>
    <div class="times" aria-hidden="true">
      <span>${columns[0] === undefined ? '' : time(columns[0].from, now)}</span><span>now</span>
    </div>
    <figcaption class="legend">
      <span class="rate-key">hit rate</span>
      <span class="hits-key">hits</span>
      <span class="misses-key">misses</span>
      <span>in each ${duration(step)}</span>
    </figcaption>
    <details>
      <summary>As a table</summary>
      <div class="scroll" tabindex="0" role="region" aria-label="Hit rate over time">
        <table>
          <thead>
            <tr>
              <th scope="col">From</th>
              <th scope="col">Hit rate</th>
              <th scope="col">Hits</th>
              <th scope="col">Misses</th>
            </tr>
          </thead>
          <tbody>
            ${columns
              .filter((column) => asked(column) > 0)
              .toReversed()
              .map((column) => tableRow(column, now))}
          </tbody>
        </table>
      </div>
    </details>
  </figure>`;
}

/** The drawing in words. */
function summary(columns: readonly Column[], now: Date): string {
  const { hits, all } = overallRate(columns);
  const [first, ...others] = columns.filter((column) => asked(column) > 0);
  if (first === undefined) return 'Hit rate over time: nothing was asked for';
  const share = (column: Column): number => column.hits / asked(column);
  const lowest = others.reduce((low, column) => (share(column) < share(low) ? column : low), first);
  const latest = others.at(-1) ?? first;
  return [
    `Hit rate over the ${lastTime(first.from, now)}: ${percentage(hits, all)} of ${count(all, 'base image')}`,
    `at its lowest ${percentage(lowest.hits, asked(lowest))}`,
    `lately ${percentage(latest.hits, asked(latest))}`,
  ].join(', ');
}

/** Stretches of time in which something was asked for; a line drawn across a gap would be made up. */
function runs(points: readonly Point[]): Point[][] {
  const found: Point[][] = [[]];
  for (const point of points)
    if (asked(point.column) > 0) found.at(-1)?.push(point);
    else if (found.at(-1)?.length !== 0) found.push([]);
  return found.filter((run) => run.length > 0);
}

function line(run: readonly Point[]): Html {
  const y = ({ column }: Point): number => round(height - (column.hits / asked(column)) * height);
  const [first, ...others] = run;
  if (first === undefined) return html``;
  // A line of no length is drawn as a dot.
  if (others.length === 0) return html`<path class="line dot" d="M${first.x} ${y(first)}h0" />`;
  const path = run.map((point, index) => `${index === 0 ? 'M' : 'L'}${point.x} ${y(point)}`).join('');
  return html`<path class="area" d="${path}L${others.at(-1)?.x ?? first.x} ${height}L${first.x} ${height}Z" />
    <path class="line" d="${path}" />`;
}

function bar({ x, column }: Point, band: number, highest: number): Html {
  if (asked(column) === 0) return html``;
  const scaled = (number: number): number => round((number / highest) * height);
  const [hits, all] = [scaled(column.hits), scaled(asked(column))];
  const part = (name: string, from: number, to: number): Html =>
    to === from
      ? html``
      : html`<rect
          class="${name}"
          x="${round(x - band * 0.36)}"
          y="${round(height - to)}"
          width="${round(band * 0.72)}"
          height="${round(to - from)}"
        />`;
  return html`${part('hits', 0, hits)}${part('misses', hits, all)}`;
}

function tableRow(column: Column, now: Date): Html {
  return html`<tr>
    <td>${time(column.from, now)}</td>
    <td>${percentage(column.hits, asked(column))}</td>
    <td>${whole(column.hits)}</td>
    <td>${whole(column.misses)}</td>
  </tr>`;
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
