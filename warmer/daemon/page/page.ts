import { html } from 'hono/html';
import type { WarmingStatus } from '../types.ts';
import type { Assets } from './assets.ts';
import { type Html, percentage, textOf, time, whole } from './format.ts';
import { imageSection } from './image-table.ts';
import { attention, diskPanel, hitRatePanel, nowPanel, pullSection } from './panels.ts';
import { stateOf } from './state.ts';
import type { View } from './view.ts';

/** What a page is made from. */
export interface PageParts {
  readonly status: WarmingStatus;
  readonly view: View;
  /** Of the warmer, or of its node. */
  readonly name: string;
  readonly assets: Assets;
  readonly now: Date;
}

/**
 * The status page, whole. The script asks for it again and takes over what differs, so there is one place where things
 * are drawn, and it works without script. Everything goes through the escaping template: names and errors are others' words.
 */
export function renderPage({ status, view, name, assets, now }: PageParts): string {
  const { configuration, version, startedAt, images } = status;
  const warm = images.filter((image) => stateOf(image) === 'warm' || stateOf(image) === 'stale').length;
  const page = html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <title>${status.ready ? '' : 'Not ready · '}${name} · Kiln warmer</title>
        <link rel="icon" href="${assets.icon.path}" type="image/svg+xml" />
        <link rel="stylesheet" href="${assets.style.path}" />
        <script type="module" src="${assets.script.path}"></script>
      </head>
      <body>
        <a class="skip" href="#images-title">Skip to the images</a>
        <header>
          <h1><span class="product">Kiln warmer</span> <span class="name">${name}</span></h1>
          <p class="ready" role="status">${readiness(status, warm)}</p>
          <div class="updates">
            <p class="trouble" id="trouble" role="alert" data-own></p>
            <p class="quiet" id="live" data-own></p>
            <button type="button" id="pause" data-own hidden>Pause updates</button>
            <noscript><p class="quiet">Reload the page to bring it up to date.</p></noscript>
          </div>
        </header>
        <main id="main" ${isMoving(status) ? html`data-moving` : ''}>
          ${attention(status, now)}
          <div class="panels">${hitRatePanel(status, now)}${diskPanel(status)}${nowPanel(status, now)}</div>
          ${imageSection(images, view, now)}${pullSection(status, now)}
        </main>
        <footer>
          <p>
            Version ${version}, running since ${time(startedAt, now)}. Configuration
            <span class="verbatim">${configuration.path}</span>, loaded ${time(configuration.loadedAt, now)}
            (<span class="verbatim" title="${configuration.digest}">${configuration.digest.slice(0, 19)}</span
            >).
          </p>
          <p>
            <a href="/status">Status as JSON</a> <a href="/metrics">Metrics</a>
            <a href="/readyz?verbose">Checks</a>
          </p>
        </footer>
      </body>
    </html>`;
  return textOf(page);
}

function readiness({ ready, images }: WarmingStatus, warm: number): Html {
  const share =
    images.length === 0
      ? ''
      : `${whole(warm)} of ${whole(images.length)} images warm (${percentage(warm, images.length)})`;
  return html`<span class="badge ${ready ? 'warm' : 'pulling'}">${ready ? 'Ready' : 'Not ready yet'}</span>
    ${share}`;
}

/** Whether somebody who looks at the page would like to see it change often. */
function isMoving({ images, builds }: WarmingStatus): boolean {
  return builds.length > 0 || images.some(({ phase }) => phase === 'pulling' || phase === 'checking');
}
