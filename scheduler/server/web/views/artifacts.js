// @ts-check
/** What a job leaves behind: pictures to look at, files to download. */
import { callAll } from "../api.js";
import { note } from "../layout.js";
import { bytes } from "../units.js";
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { isOver } from "./job_parts.js";

/** Milliseconds from an epoch's end to a look for what came of it, and between two looks where no epoch ends. */
const [SOON, LOOK] = [3000, 20000];

/** Where a job's picture is; another one under the same name is another address. @param {string} job @param {any} one */
const picture = (job, one) => `${address(job, one.name)}?${(one.sha256 || "").slice(0, 8)}`;

/** Where a job's file is. @param {string} job @param {string} name */
const address = (job, name) => `/files/jobs/${job}/${name.split("/").map(encodeURIComponent).join("/")}`;

const isPicture = (/** @type {any} */ one) => /\.(jpe?g|png)$/i.test(one.name);
/** Pictures of images come before those of curves. @param {any} one */
const rank = (one) => (one.name.startsWith("val_batch") ? 0 : one.name.startsWith("train_batch") ? 1 : 2);

/**
 * What there is of a job, in which of our looks each name was new, and what was there but at the last look.
 * @typedef {{ all: any[], news: Map<string, { sha256: string, look: number }>, looks: number, missed: Set<string> }} Found
 */

/** What a job has left until now, looked for again while it goes on. @param {any} job @returns {Found} */
function useArtifacts(job) {
  const [found, setFound] = useState(/** @type {Found} */ ({ all: [], news: new Map(), looks: 0, missed: new Set() }));
  /** @type {{ current: (wait: number) => void }} Looks after so many milliseconds, unless it does sooner anyway. */
  const look = useRef(() => {});
  useEffect(() => {
    let [isOpen, due] = [true, Infinity];
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const read = async () => {
      due = Infinity;
      // While it cannot be asked, what is known stays.
      const all = await callAll("ArtifactService/ListArtifacts", { jobId: job.id }, "artifacts").catch(() => null);
      if (!isOpen) return;
      if (all) setFound((last) => seen(last, all));
      if (!isOver(job)) look.current(LOOK);
    };
    look.current = (wait) => {
      if (Date.now() + wait >= due) return;
      due = Date.now() + wait;
      clearTimeout(timer);
      timer = setTimeout(read, wait);
    };
    look.current(0);
    return () => {
      isOpen = false;
      clearTimeout(timer);
    };
  }, [job.id, job.state]);
  const epoch = job.progress?.epoch;
  useEffect(() => {
    if (epoch && !isOver(job)) look.current(SOON);
  }, [epoch]);
  return found;
}

/** @param {Found} last @param {any[]} listed @returns {Found} */
function seen({ all: before, news: known, looks, missed }, listed) {
  const names = new Set(listed.map((one) => one.name));
  // A picture that is about to have a successor may be missing for a moment.
  const kept = before.filter(({ name }) => !names.has(name) && !missed.has(name));
  const all = [...listed, ...kept];
  /** @type {Found["news"]} */
  const news = new Map();
  for (const { name, sha256 } of all) {
    const old = known.get(name);
    news.set(name, old && old.sha256 === sha256 ? old : { sha256, look: looks });
  }
  return { all, news, looks: looks + 1, missed: new Set(kept.map((one) => one.name)) };
}

/** Whether what was at an address is there no more, and not only out of reach. @param {string} address */
export const isRemoved = async (address) => (await fetch(address, { method: "HEAD" }).catch(() => null))?.status === 404;

/**
 * Downloads what a link leads to, and says so where it is not there any more: a browser would only say that it failed.
 * @param {MouseEvent} event
 */
async function download(event) {
  const link = /** @type {HTMLAnchorElement} */ (event.currentTarget);
  // The click that is made below is the browser's.
  if (!event.isTrusted) return;
  event.preventDefault();
  if (await isRemoved(link.href)) note(`${link.textContent} was removed`);
  else link.click();
}

/** @param {{ job: any }} props */
export function Artifacts({ job }) {
  const { all, news } = useArtifacts(job);
  const [open, setOpen] = useState("");
  if (!all.length) return null;
  const look = (/** @type {any} */ one) => news.get(one.name)?.look || 0;
  const order = (/** @type {any} */ one, /** @type {any} */ other) =>
    look(other) - look(one) || rank(one) - rank(other) || one.name.localeCompare(other.name, undefined, { numeric: true });
  const pictures = all.filter(isPicture).sort(order);
  return html`
    ${pictures.length > 0 &&
    html`<section class="panel wide" aria-labelledby="pictures"><header><h2 id="pictures">Pictures</h2></header>
      <ul class="thumbs">${pictures.map((one) => html`<${Picture} key=${one.name} job=${job.id} one=${one} onOpen=${() => setOpen(one.name)} />`)}</ul>
    </section>`}
    <section class="panel" aria-labelledby="files"><header><h2 id="files">Artifacts</h2></header>
      <div class="scroll tall" tabindex="0" role="group" aria-labelledby="files"><table>
        <thead><tr><th scope="col">Name</th><th scope="col" class="number">Size</th></tr></thead>
        <tbody>${all.map((one) => html`<tr key=${one.name}><td><a href=${address(job.id, one.name)} download=${one.name.split("/").pop()} onClick=${download}>${one.name}</a></td><td class="number">${bytes(one.sizeBytes || 0)}</td></tr>`)}</tbody>
      </table></div>
    </section>
    ${pictures.some(({ name }) => name === open) && html`<${Large} job=${job.id} pictures=${pictures} name=${open} onMove=${setOpen} />`}
  `;
}

/** @param {{ job: string, one: any, onOpen: () => void }} props */
function Picture({ job, one, onOpen }) {
  const address = picture(job, one);
  const [shown, setShown] = useState(address);
  const [gone, setGone] = useState("");
  useEffect(() => {
    if (address === shown) return undefined;
    // The old one stays until the new one can be drawn.
    const next = new Image();
    next.onload = next.onerror = () => setShown(address);
    next.src = address;
    return () => void (next.onload = next.onerror = null);
  }, [address]);
  const isGone = gone === shown;
  return html`<li>
    <button type="button" onClick=${onOpen} disabled=${isGone} aria-label=${`Look at ${one.name}`}>
      ${isGone
        ? html`<em class="muted">was removed</em>`
        : html`<img src=${shown} alt="" loading="lazy" decoding="async" onError=${async () => (await isRemoved(shown)) && setGone(shown)} />`}
      <span>${one.name}</span>
    </button>
  </li>`;
}

/** One picture over the page. @param {{ job: string, pictures: any[], name: string, onMove: (name: string) => void }} props */
function Large({ job, pictures, name, onMove }) {
  const box = useRef(/** @type {HTMLDialogElement | null} */ (null));
  const [gone, setGone] = useState("");
  const shown = picture(job, pictures.find((one) => one.name === name));
  useEffect(() => box.current?.showModal(), []);
  const at = pictures.findIndex((one) => one.name === name);
  const move = (/** @type {number} */ by) => onMove(pictures[(at + by + pictures.length) % pictures.length].name);
  const key = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "ArrowLeft") move(-1);
    if (event.key === "ArrowRight") move(1);
  };
  return html`<dialog class="large" ref=${box} aria-label=${name} onClose=${() => onMove("")} onKeyDown=${key}>
    <header><b>${name}</b><span class="grow"></span>
      <button type="button" onClick=${() => move(-1)} aria-label="Previous picture">←</button>
      <button type="button" onClick=${() => move(1)} aria-label="Next picture">→</button>
      <button type="button" onClick=${() => box.current?.close()}>Close</button>
    </header>
    ${gone === shown
      ? html`<p class="notice" role="alert">${name} was removed.</p>`
      : html`<img src=${shown} alt=${name} onError=${async () => (await isRemoved(shown)) && setGone(shown)} />`}
  </dialog>`;
}
