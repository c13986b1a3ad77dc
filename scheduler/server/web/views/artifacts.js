// @ts-check
/** What a job leaves behind: pictures to look at, files to download. */
import { callAll } from "../api.js";
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { bytes, isOver } from "./job_parts.js";

/** Milliseconds between two looks for new ones while it runs. */
const LOOK = 15000;

/** Where a job's picture is; another one under the same name is another address. @param {string} job @param {any} one */
const picture = (job, one) => `${address(job, one.name)}?${(one.sha256 || "").slice(0, 8)}`;

/** Where a job's file is. @param {string} job @param {string} name */
const address = (job, name) => `/files/jobs/${job}/${name.split("/").map(encodeURIComponent).join("/")}`;

const isPicture = (/** @type {any} */ one) => /\.(jpe?g|png)$/i.test(one.name);
/** Pictures of images come before those of curves. @param {any} one */
const rank = (one) => (one.name.startsWith("val_batch") ? 0 : one.name.startsWith("train_batch") ? 1 : 2);

/** @param {{ job: any }} props */
export function Artifacts({ job }) {
  const [all, setAll] = useState(/** @type {any[] | null} */ (null));
  const [open, setOpen] = useState(-1);
  useEffect(() => {
    let isOpen = true;
    const read = async () => {
      // While it cannot be asked, what is known stays.
      const found = await callAll("ArtifactService/ListArtifacts", { jobId: job.id }, "artifacts").catch(() => null);
      if (isOpen && found) setAll(found);
    };
    read();
    const timer = isOver(job) ? undefined : setInterval(read, LOOK);
    return () => {
      isOpen = false;
      clearInterval(timer);
    };
  }, [job.id, job.state]);
  if (!all?.length) return null;
  const pictures = all.filter(isPicture).sort((one, other) => rank(one) - rank(other) || one.name.localeCompare(other.name, undefined, { numeric: true }));
  return html`
    ${pictures.length > 0 &&
    html`<section class="panel wide" aria-labelledby="pictures"><header><h2 id="pictures">Pictures</h2></header>
      <ul class="thumbs">${pictures.map((one, at) => html`<${Picture} key=${one.name + one.sha256} job=${job.id} one=${one} onOpen=${() => setOpen(at)} />`)}</ul>
    </section>`}
    <section class="panel" aria-labelledby="files"><header><h2 id="files">Artifacts</h2></header>
      <div class="scroll tall" tabindex="0" role="group" aria-labelledby="files"><table>
        <thead><tr><th scope="col">Name</th><th scope="col" class="number">Size</th></tr></thead>
        <tbody>${all.map((one) => html`<tr key=${one.name}><td><a href=${address(job.id, one.name)} download=${one.name.split("/").pop()}>${one.name}</a></td><td class="number">${bytes(one.sizeBytes || 0)}</td></tr>`)}</tbody>
      </table></div>
    </section>
    ${pictures[open] && html`<${Large} job=${job.id} pictures=${pictures} at=${open} onMove=${setOpen} />`}
  `;
}

/** @param {{ job: string, one: any, onOpen: () => void }} props */
function Picture({ job, one, onOpen }) {
  const [isGone, setGone] = useState(false);
  return html`<li>
    <button type="button" onClick=${onOpen} disabled=${isGone} aria-label=${`Look at ${one.name}`}>
      ${!isGone && html`<img src=${picture(job, one)} alt="" loading="lazy" decoding="async" onError=${() => setGone(true)} />`}
      <span>${one.name}</span>
    </button>
  </li>`;
}

/** One picture over the page. @param {{ job: string, pictures: any[], at: number, onMove: (at: number) => void }} props */
function Large({ job, pictures, at, onMove }) {
  const box = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => box.current?.showModal(), []);
  const move = (/** @type {number} */ by) => onMove((at + by + pictures.length) % pictures.length);
  const key = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "ArrowLeft") move(-1);
    if (event.key === "ArrowRight") move(1);
  };
  const { name } = pictures[at];
  return html`<dialog class="large" ref=${box} aria-label=${name} onClose=${() => onMove(-1)} onKeyDown=${key}>
    <header><b>${name}</b><span class="grow"></span>
      <button type="button" onClick=${() => move(-1)} aria-label="Previous picture">←</button>
      <button type="button" onClick=${() => move(1)} aria-label="Next picture">→</button>
      <button type="button" onClick=${() => box.current?.close()}>Close</button>
    </header>
    <img src=${picture(job, pictures[at])} alt=${name} />
  </dialog>`;
}
