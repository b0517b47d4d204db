import { html } from 'hono/html';
import type { WarmingStatus } from '../types.ts';
import type { Assets } from './assets.ts';
import { count, type Html, textOf, time, whole } from './format.ts';
import { imageSection } from './image-table.ts';
import { attention, diskPanel, hitRatePanel, nowPanel, pullSection } from './panels.ts';
import { groupOf, type StateGroup, stateOf } from './state.ts';
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
          <p class="ready" role="status">${readiness(status)}</p>
          <div class="updates">
            <p class="quiet" id="live" data-own></p>
            <button type="button" id="pause" data-own hidden>Pause updates</button>
            <noscript
              ><p class="quiet">
                As of ${now.toISOString().slice(11, 16)} UTC. Without JavaScript it stays so: reload it for
                news.
              </p></noscript
            >
          </div>
        </header>
        <p class="trouble" id="trouble" role="alert"></p>
        <main id="main" ${isMoving(status) ? html`data-moving` : ''}>
          ${attention(status, now)}
          <div class="panels" data-key="panels">
            ${hitRatePanel(status, now)}${diskPanel(status)}${nowPanel(status, now)}
          </div>
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

/** The node in one line; the numbers are those of the filters above the images. */
function readiness({ ready, images }: WarmingStatus): Html {
  const groups = Map.groupBy(images, (image) => groupOf(stateOf(image)));
  const number = (group: StateGroup): number => groups.get(group)?.length ?? 0;
  const others = [
    ...(number('moving') > 0 ? [`${whole(number('moving'))} in progress`] : []),
    ...(number('failing') > 0 ? [`${whole(number('failing'))} failing`] : []),
  ];
  const warm =
    others.length > 0
      ? [`${whole(number('warm'))} of ${count(images.length, 'image')} warm and up to date`, ...others].join(
          ', ',
        )
      : images.length === 0
        ? 'no image is configured'
        : `${images.length === 1 ? '1 image is' : `all ${whole(images.length)} images are`} warm and up to date`;
  return html`<span class="badge ${ready ? 'warm' : 'failed'}">${ready ? 'Ready' : 'Not ready'}</span>
    <span class="verdict">${warm}</span>`;
}

/** Whether somebody who looks at the page would like to see it change often. */
function isMoving({ images, builds }: WarmingStatus): boolean {
  return builds.length > 0 || images.some(({ phase }) => phase === 'pulling' || phase === 'checking');
}
