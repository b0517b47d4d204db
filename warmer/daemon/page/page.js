// @ts-check

/*
 * Keeps the status page up to date. The server draws; this asks for the same address again and takes over what differs,
 * so that the focus, what is typed and what is scrolled to stay as they are.
 */

/** Milliseconds between two looks: while images are pulled or builds run, and otherwise. */
const whileMoving = 2000;
const whileQuiet = 10_000;
const afterTyping = 150;
const patience = 8000;

/** Parts of the page that are taken over. What has `data-own` in them is this script's. */
const parts = ['header', 'main', 'footer'];

/** @type {AbortController | undefined} */
let underWay;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let next;
let etag = '';
let failures = 0;
let paused = false;
/** When what is shown was so. */
let seen = new Date();

/** The warmer answers, but has no page. */
class Refusal extends Error {}

/** @param {string} id @returns {HTMLElement} */
function element(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no ${id}`);
  return found;
}

/** @param {Node | null} node @returns {string | undefined} */
function keyOf(node) {
  if (!(node instanceof Element)) return undefined;
  return node.getAttribute('data-key') ?? (node.id === '' ? undefined : `#${node.id}`);
}

/** @param {Node} node @param {Node} wanted */
function isSameKind(node, wanted) {
  return node.nodeName === wanted.nodeName && keyOf(node) === undefined;
}

/** Makes a node like another one, changing as little as can be. @param {Node} node @param {Node} wanted */
function takeOver(node, wanted) {
  if (!(node instanceof Element) || !(wanted instanceof Element)) {
    if (node.nodeValue !== wanted.nodeValue) node.nodeValue = wanted.nodeValue;
    return;
  }
  if (node.hasAttribute('data-own')) return;
  for (const { name } of [...node.attributes])
    if (!wanted.hasAttribute(name) && !(name === 'open' && node.nodeName === 'DETAILS'))
      node.removeAttribute(name);
  for (const { name, value } of wanted.attributes)
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  takeOverChildren(node, wanted);
}

/**
 * Removes what is no longer wanted from a place up to a node that stays: were the node moved instead, it would lose the
 * focus and its scrolling. Does nothing when something between them stays as well.
 *
 * @param {ChildNode} known @param {ChildNode | null} place @param {Set<string>} staying @returns {ChildNode | null}
 */
function clearBefore(known, place, staying) {
  /** @type {ChildNode[]} */
  const between = [];
  for (let node = place; node !== known; node = node.nextSibling) {
    const key = keyOf(node);
    if (node === null || (key !== undefined && staying.has(key))) return place;
    between.push(node);
  }
  for (const node of between) node.remove();
  return known;
}

/** @param {Element} node @param {Element} wanted */
function takeOverChildren(node, wanted) {
  const keyed = new Map([...node.children].map((child) => [keyOf(child), child]));
  const staying = new Set([...wanted.children].map(keyOf).filter((key) => key !== undefined));
  let place = node.firstChild;
  for (const child of wanted.childNodes) {
    const key = keyOf(child);
    const known =
      key === undefined ? (place !== null && isSameKind(place, child) ? place : undefined) : keyed.get(key);
    if (known === undefined || known.nodeName !== child.nodeName) {
      node.insertBefore(document.importNode(child, true), place);
      continue;
    }
    place = clearBefore(known, place, staying);
    if (known === place) place = place.nextSibling;
    else node.insertBefore(known, place);
    takeOver(known, child);
  }
  while (place !== null) {
    const after = place.nextSibling;
    place.remove();
    place = after;
  }
}

/** @param {string} text */
function show(text) {
  const wanted = new DOMParser().parseFromString(text, 'text/html');
  const files = (/** @type {Document} */ page) =>
    [...page.head.querySelectorAll('script, link')].map(
      (node) => node.getAttribute('src') ?? node.getAttribute('href'),
    );
  // The daemon was replaced by another version.
  if (files(wanted).join() !== files(document).join()) location.reload();
  document.title = wanted.title;
  for (const part of parts) {
    const [old, fresh] = [document.querySelector(part), wanted.querySelector(part)];
    if (old !== null && fresh !== null) takeOver(old, fresh);
  }
}

/** Looks at the address that the browser shows. */
async function look() {
  clearTimeout(next);
  underWay?.abort();
  const mine = new AbortController();
  underWay = mine;
  try {
    const response = await fetch(location.href, {
      headers: { accept: 'text/html', 'if-none-match': etag },
      cache: 'no-store',
      signal: AbortSignal.any([mine.signal, AbortSignal.timeout(patience)]),
    });
    if (response.status !== 304) {
      if (!response.ok) throw new Refusal(`it answered ${response.status}`);
      const text = await response.text();
      if (mine.signal.aborted) return;
      show(text);
      etag = response.headers.get('etag') ?? '';
    }
    failures = 0;
    seen = new Date();
    element('trouble').textContent = '';
    document.body.removeAttribute('data-old');
    element('live').textContent = `Updated ${seen.toLocaleTimeString()}`;
  } catch (error) {
    if (mine.signal.aborted) return;
    failures += 1;
    // One request may get lost.
    if (failures > 1) markOld(error instanceof Refusal ? 'cannot say how it is' : 'does not answer');
  }
  plan();
}

/** Leaves nobody to think that what is shown is so now. @param {string} why */
function markOld(why) {
  // An alert that is written again is read out again.
  const text = `The warmer ${why}. You see how it was at ${seen.toLocaleTimeString()}.`;
  if (element('trouble').textContent !== text) element('trouble').textContent = text;
  document.body.setAttribute('data-old', '');
  document.title = `No answer · ${document.title.replace(/^No answer · /, '')}`;
  element('live').textContent = '';
  const badge = document.querySelector('.ready .badge');
  if (badge !== null) {
    badge.className = 'badge';
    badge.textContent = 'No answer';
  }
  // The whole page is drawn again by the next answer.
  etag = '';
}

function plan() {
  clearTimeout(next);
  if (paused || document.hidden) return;
  const quick = document.querySelector('main')?.hasAttribute('data-moving') === true || failures > 0;
  next = setTimeout(look, quick ? whileMoving : whileQuiet);
}

/** @param {string} address @param {boolean} isStep whether the back button returns from it */
function goTo(address, isStep) {
  if (isStep) history.pushState(null, '', address);
  else history.replaceState(null, '', address);
  void look();
}

/** @param {HTMLFormElement} form */
function addressOf(form) {
  const parameters = new URLSearchParams();
  for (const [name, value] of new FormData(form))
    if (typeof value === 'string' && value !== '') parameters.set(name, value);
  return `/?${parameters}`;
}

document.addEventListener('click', (event) => {
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0) return;
  const link = event.target instanceof Element ? event.target.closest('a[data-view]') : null;
  const address = link?.getAttribute('href');
  if (typeof address !== 'string') return;
  event.preventDefault();
  goTo(address, true);
});

/** @type {ReturnType<typeof setTimeout> | undefined} */
let typing;
document.addEventListener('input', (event) => {
  const form = event.target instanceof Element ? event.target.closest('form') : null;
  if (form === null) return;
  clearTimeout(typing);
  typing = setTimeout(() => goTo(addressOf(form), false), afterTyping);
});

document.addEventListener('submit', (event) => {
  if (!(event.target instanceof HTMLFormElement)) return;
  event.preventDefault();
  clearTimeout(typing);
  goTo(addressOf(event.target), true);
});

addEventListener('popstate', () => void look());
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && !paused) void look();
});

const pause = element('pause');
pause.hidden = false;
pause.addEventListener('click', () => {
  paused = !paused;
  pause.textContent = paused ? 'Resume updates' : 'Pause updates';
  if (paused) {
    clearTimeout(next);
    underWay?.abort();
    element('live').textContent = `Paused at ${seen.toLocaleTimeString()}`;
  } else void look();
});

plan();
