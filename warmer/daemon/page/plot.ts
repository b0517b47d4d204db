import { html } from 'hono/html';
import type { HitRateSample } from '../types.ts';
import { count, type Html, percentage, time, whole } from './format.ts';

/** The drawing is stretched to the width there is; strokes are not. */
const width = 1000;
const height = 100;

interface Point {
  readonly x: number;
  readonly sample: HitRateSample;
}

/** How often builds found their base images on the volume, as a line over time, above the number of those they asked for. */
export function hitRatePlot(samples: readonly HitRateSample[], now: Date): Html {
  const first = samples[0];
  const last = samples.at(-1);
  if (first === undefined || last === undefined) return html`<p class="empty">No build has reported yet.</p>`;
  const span = Math.max(1, last.at.getTime() - first.at.getTime());
  const points = samples.map((sample) => ({
    x: samples.length === 1 ? width / 2 : round(((sample.at.getTime() - first.at.getTime()) / span) * width),
    sample,
  }));
  const asked = samples.filter((sample) => total(sample) > 0);
  return html`<figure class="plot">
    <div class="axis" aria-hidden="true"><span>100 %</span><span>50</span><span>0</span></div>
    <svg
      class="rate"
      viewBox="0 0 ${width} ${height}"
      preserveAspectRatio="none"
      role="img"
      aria-labelledby="plot-title"
    >
      <title id="plot-title">${summary(asked)}</title>
      <path class="grid" d="M0 0H${width}M0 50H${width}M0 100H${width}" />
      ${runs(points).map(line)}
    </svg>
    <svg class="volume" viewBox="0 0 ${width} ${height}" preserveAspectRatio="none" aria-hidden="true">
      ${columns(points)}
    </svg>
    <div class="times" aria-hidden="true">${time(first.at, now)}${time(last.at, now)}</div>
    <details>
      <summary>As a table</summary>
      <div class="scroll" tabindex="0" role="region" aria-label="Hit rate over time">
        <table>
          <thead>
            <tr>
              <th scope="col">When</th>
              <th scope="col">Hit rate</th>
              <th scope="col">Hits</th>
              <th scope="col">Misses</th>
            </tr>
          </thead>
          <tbody>
            ${asked.toReversed().map((sample) => tableRow(sample, now))}
          </tbody>
        </table>
      </div>
    </details>
  </figure>`;
}

/** Hits among what was asked for in all samples together. */
export function overallRate(samples: readonly HitRateSample[]): {
  readonly hits: number;
  readonly all: number;
} {
  return samples.reduce((sum, sample) => ({ hits: sum.hits + sample.hits, all: sum.all + total(sample) }), {
    hits: 0,
    all: 0,
  });
}

function summary(samples: readonly HitRateSample[]): string {
  const { hits, all } = overallRate(samples);
  const lowest = samples.reduce((low, { hits: part, misses }) => Math.min(low, part / (part + misses)), 1);
  return `Hit rate over time: ${percentage(hits, all)} of ${count(all, 'base image')}, ${Math.floor(lowest * 100)} % at its lowest`;
}

function total({ hits, misses }: HitRateSample): number {
  return hits + misses;
}

/** Stretches of time in which something was asked for; a line drawn across a gap would be made up. */
function runs(points: readonly Point[]): Point[][] {
  const found: Point[][] = [];
  let open: Point[] = [];
  for (const point of points) {
    if (total(point.sample) > 0) open.push(point);
    else if (open.length > 0) {
      found.push(open);
      open = [];
    }
  }
  if (open.length > 0) found.push(open);
  return found;
}

function line(run: readonly Point[]): Html {
  const y = ({ sample }: Point): number => round(height - (sample.hits / total(sample)) * height);
  const path = run.map((point, index) => `${index === 0 ? 'M' : 'L'}${point.x} ${y(point)}`).join('');
  // A line of no length is drawn as a dot.
  const stroke = run.length === 1 ? `${path}h0` : path;
  return html`<path class="area" d="${path}L${run.at(-1)?.x ?? 0} ${height}L${run[0]?.x ?? 0} ${height}Z" />
    <path class="line" d="${stroke}" />`;
}

function columns(points: readonly Point[]): Html[] {
  const highest = points.reduce((most, { sample }) => Math.max(most, total(sample)), 1);
  const step = points.length > 1 ? width / (points.length - 1) : width / 10;
  return points.flatMap(({ x, sample }) => {
    if (total(sample) === 0) return [];
    const [hits, misses] = [(sample.hits / highest) * height, (sample.misses / highest) * height].map(round);
    const at = round(Math.min(Math.max(x - step * 0.35, 0), width - step * 0.7));
    const wide = round(step * 0.7);
    return [
      html`<rect
        class="hits"
        x="${at}"
        y="${round(height - (hits ?? 0))}"
        width="${wide}"
        height="${hits}"
      />`,
      html`<rect
        class="misses"
        x="${at}"
        y="${round(height - (hits ?? 0) - (misses ?? 0))}"
        width="${wide}"
        height="${misses}"
      />`,
    ];
  });
}

function tableRow(sample: HitRateSample, now: Date): Html {
  return html`<tr>
    <td>${time(sample.at, now)}</td>
    <td>${percentage(sample.hits, total(sample))}</td>
    <td>${whole(sample.hits)}</td>
    <td>${whole(sample.misses)}</td>
  </tr>`;
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
