// @ts-check
/** Pictures of a data set with their boxes, and how often each class is in it. */
import { html, useMemo, useState } from "../vendor/preact.js";
import { isRemoved } from "./artifacts.js";

/** Classes and pictures that are shown before somebody asks for all. */
const [CLASSES, PICTURES] = [20, 12];

/** A colour for each class, far from those of its neighbours. @param {number} id */
const colour = (id) => `hsl(${Math.round((id * 137.508) % 360)} 85% 55%)`;

/** @param {{ classes: any[], isPart: boolean }} props `isPart`: of some label files only. */
export function Classes({ classes, isPart }) {
  const [isAll, setAll] = useState(false);
  const sorted = useMemo(() => [...classes].sort((one, other) => (Number(other.boxes) || 0) - (Number(one.boxes) || 0)), [classes]);
  const most = Math.max(1, Number(sorted[0]?.boxes) || 0);
  const shown = isAll ? sorted : sorted.slice(0, CLASSES);
  return html`<div class="scroll"><table class="speeds classes">
      ${isPart && html`<caption>some of the labels</caption>`}<thead><tr><th>class</th><td></td><th>boxes</th><th>images</th></tr></thead>
      <tbody>
        ${shown.map(
          ({ id = 0, name, boxes = 0, images = 0 }) => html`<tr key=${id}>
            <td title=${name}><i style=${{ background: colour(id) }}></i>${name || id}</td>
            <td><i class="amount" style=${{ width: `${Math.max(1, (100 * boxes) / most)}%` }}></i></td>
            <td>${Number(boxes).toLocaleString()}</td>
            <td>${Number(images).toLocaleString()}</td>
          </tr>`,
        )}
      </tbody>
    </table></div>
    ${sorted.length > shown.length && html`<button type="button" onClick=${() => setAll(true)}>Show all ${sorted.length} classes</button>`}`;
}

/** Each part of a path as it stands in an address. @param {string} path */
const quoted = (path) => path.split("/").map(encodeURIComponent).join("/");

/** @param {{ one: any, samples: any[], classes: any[] }} props */
export function Samples({ one, samples, classes }) {
  const [hidden, setHidden] = useState(/** @type {Set<number>} */ (new Set()));
  const [isAll, setAll] = useState(false);
  const shown = isAll ? samples : samples.slice(0, PICTURES);
  const names = useMemo(() => new Map(classes.map(({ id = 0, name }) => [id, name || String(id)])), [classes]);
  const seen = [...new Set(shown.flatMap((sample) => (sample.boxes || []).map((/** @type {any} */ box) => box.classId || 0)))].sort((a, b) => a - b);
  const toggle = (/** @type {number} */ id) => {
    const next = new Set(hidden);
    if (!next.delete(id)) next.add(id);
    setHidden(next);
  };
  return html`<section class="samples" aria-label="Samples">
    <h2>Samples</h2>
    <p class="legend">
      ${seen.map(
        (id) => html`<button type="button" key=${id} aria-pressed=${!hidden.has(id)} onClick=${() => toggle(id)}><i style=${{ background: colour(id) }}></i>${names.get(id) || id}</button>`,
      )}
    </p>
    <ul class="pictures">
      ${shown.map((sample) => html`<${Picture} key=${sample.path} one=${one} sample=${sample} names=${names} hidden=${hidden} />`)}
    </ul>
    ${samples.length > shown.length && html`<button type="button" onClick=${() => setAll(true)}>Show all ${samples.length}</button>`}
  </section>`;
}

/** @param {{ one: any, sample: any, names: Map<number, string>, hidden: Set<number> }} props */
function Picture({ one, sample, names, hidden }) {
  const { path, split = "", boxes = [] } = sample;
  const drawn = boxes.filter((/** @type {any} */ box) => !hidden.has(box.classId || 0));
  const [isGone, setGone] = useState(false);
  const address = `/files/datasets/${encodeURIComponent(one.name)}/${one.version}/${quoted(path)}`;
  // Boxes are shares of the picture, so they fit at any size once it is as wide as its frame.
  if (isGone) return html`<li><em class="muted">was removed</em> <span class="muted small clip" title=${path}>${split} · ${path.split("/").at(-1)}</span></li>`;
  return html`<li>
    <a class="picture" href=${address} target="_blank" rel="noopener">
      <img src=${address} loading="lazy" decoding="async" alt=${`${path}, ${boxes.length} boxes`} onError=${async () => setGone(await isRemoved(address))} />
      <svg viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true">
        ${drawn.map(
          ({ classId: id = 0, x = 0, y = 0, width = 0, height = 0 }, /** @type {number} */ at) => html`<rect key=${at} x=${x - width / 2} y=${y - height / 2} width=${width} height=${height} style=${{ stroke: colour(id) }}>
            <title>${names.get(id) || id}</title>
          </rect>`,
        )}
      </svg>
    </a>
    <span class="muted small clip" title=${path}>${split} · ${path.split("/").at(-1)}</span>
  </li>`;
}
