// @ts-check
/** A version of a data set or of weights: what is in it. */
import { ApiError, call } from "../api.js";
import { attempt } from "../layout.js";
import { Link, go } from "../router.js";
import { bytes, clock } from "../units.js";
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { DIGITS, KINDS, Train, forget, useLook } from "./data.js";
import { mayChange } from "./job_parts.js";
import { Classes, Samples } from "./samples.js";

/** Files of a version that are counted without being asked for. */
const COUNTED = 20000;

/** @typedef {{ files: number, size: number }} Sum */

/**
 * How many files of each kind there are in each folder. Only sums are kept, whatever their number.
 * @param {any} one @param {boolean} isWanted @returns {{ sums: Map<string, Sum>, isWhole: boolean }}
 */
function useFiles(one, isWanted) {
  const [found, setFound] = useState({ sums: /** @type {Map<string, Sum>} */ (new Map()), isWhole: false });
  useEffect(() => {
    if (!isWanted) return;
    const { kind, name, version } = one;
    const source = new EventSource(`/trainyard.v1.DatasetService/ListDatasetFiles?${new URLSearchParams({ kind, name, version })}`);
    /** @type {Map<string, Sum>} */
    const sums = new Map();
    source.onmessage = (event) => {
      for (const { path, sizeBytes } of JSON.parse(event.data).files || []) {
        const key = kindOf(path);
        const sum = sums.get(key) || { files: 0, size: 0 };
        sums.set(key, { files: sum.files + 1, size: sum.size + Number(sizeBytes || 0) });
      }
      setFound({ sums: new Map(sums), isWhole: false });
    };
    source.addEventListener("end", () => {
      source.close();
      setFound({ sums: new Map(sums), isWhole: true });
    });
    // It would begin anew, and count everything twice.
    source.onerror = () => source.close();
    return () => source.close();
  }, [one.version, isWanted]);
  return found;
}

/** `images/train · jpg` of `images/train/a/1.jpg`. @param {string} path */
function kindOf(path) {
  const parts = path.split("/");
  const name = parts.pop() || "";
  const dot = name.lastIndexOf(".");
  const type = dot > 0 ? name.slice(dot + 1).toLowerCase().slice(0, 12) : "–";
  return `${parts.slice(0, 2).join("/")}\n${parts.length ? type : name}`;
}

/** @param {{ one: any }} props */
function Files({ one }) {
  const [isWanted, setWanted] = useState(Number(one.files) <= COUNTED);
  const { sums, isWhole } = useFiles(one, isWanted);
  const rows = [...sums].sort(([first], [second]) => first.localeCompare(second));
  const [shown, most] = [rows.slice(0, 40), rows.length];
  return html`<section class="card" aria-label="Files">
    <h2>Files <span class="muted">${Number(one.files || 0).toLocaleString()} · ${bytes(one.sizeBytes || 0)}</span></h2>
    ${!isWanted
      ? html`<button type="button" onClick=${() => setWanted(true)}>Count by kind</button>`
      : html`<table class="speeds" aria-busy=${!isWhole}>
          <thead><tr><th>folder</th><th>kind</th><th>files</th><th>size</th></tr></thead>
          <tbody>
            ${shown.map(([key, sum]) => {
              const [folder, type] = key.split("\n");
              return html`<tr key=${key}><td class="mono">${folder || "/"}</td><td>${type}</td><td>${sum.files.toLocaleString()}</td><td>${bytes(sum.size)}</td></tr>`;
            })}
          </tbody>
        </table>
        ${most > shown.length && html`<p class="muted small">and ${most - shown.length} more folders and kinds</p>`}`}
  </section>`;
}

/** What the scheduler has seen in a data set; null where it does not tell. @param {any} one */
function useSummary(one) {
  const [summary, setSummary] = useState(/** @type {any} */ (null));
  useEffect(() => {
    const stop = new AbortController();
    if (one?.kind !== "DATASET") return;
    const { kind, name, version } = one;
    call("DatasetService/GetDatasetSummary", { kind, name, version }, stop).then(setSummary, (error) => {
      if (stop.signal.aborted || (error instanceof ApiError && error.code === "unimplemented")) return;
      attempt(() => Promise.reject(error));
    });
    return () => stop.abort();
  }, [one?.version]);
  return summary;
}

/** @param {string} kind */
const ofVersion = (kind) =>
  /** @param {{ params: Record<string, string>, caller: any }} props */
  function Version({ params, caller }) {
    const { name, version } = params;
    const { path, name: title } = KINDS[kind];
    const [one, setOne] = useState(/** @type {any} */ (null));
    const [trouble, setTrouble] = useState("");
    const [isGone, setGone] = useState(false);
    const summary = useSummary(one);
    const isLeaving = useRef(false);
    const read = (/** @type {(error: Error) => void} */ fail) =>
      void call("DatasetService/GetDataset", { kind, name, version }).then((/** @type {any} */ now) => {
        setOne((/** @type {any} */ known) => (JSON.stringify(known) === JSON.stringify(now) ? known : now));
        setTrouble("");
        setGone(false);
      }, fail);
    useEffect(() => read((error) => setTrouble(error.message)), []);
    // That the scheduler is away is told elsewhere; what is known stays.
    useLook(() => read((error) => error instanceof ApiError && error.code === "not_found" && !isLeaving.current && setGone(true)), version);
    const remove = async () => {
      isLeaving.current = await forget(one);
      if (isLeaving.current) go(`${path}/${name}`);
    };
    const isThere = one && !isGone;
    const images = summary?.images || [];
    return html`
      <p class="trail"><${Link} to="/data">${title}<//> / <${Link} to=${`${path}/${name}`}>${name}<//></p>
      <div class="head">
        <h1>${name}<span class="muted">@${(one?.version || version).slice(0, DIGITS)}</span></h1>
        ${isThere && one.newest && html`<span class="pill accent">newest</span>`}
        <span class="grow"></span>
        ${isThere && caller.role !== "VIEWER" && html`<${Train} one=${one} />`}
        ${isThere && mayChange(caller, one) && html`<button type="button" onClick=${remove}>Delete</button>`}
      </div>
      ${trouble && html`<p class="notice" role="alert">${trouble}</p>`}
      ${one && isGone && html`<p class="notice" role="alert">This version was removed.</p>`}
      ${one &&
      html`<p class="muted about">${[one.description, `pushed by ${one.user}`, clock(one.createTime)].filter(Boolean).join(" · ")}</p>
        <p class="muted mono small about">${one.version}</p>
        <div class="cards">
          ${summary &&
          html`<section class="card" aria-label="Images">
            <h2>Images</h2>
            <dl class="figures">
              ${images.map((/** @type {any} */ part) => html`<div key=${part.split}><dd>${Number(part.count || 0).toLocaleString()}</dd><dt>${part.split}</dt></div>`)}
            </dl>
            <${Classes} classes=${summary.classes || []} isPart=${!!summary.partial} />
          </section>`}
          <${Files} one=${one} />
        </div>
        ${summary?.samples?.length > 0 && html`<${Samples} one=${one} samples=${summary.samples} classes=${summary.classes || []} />`}`}
    `;
  };

export const DataVersion = ofVersion("DATASET");
export const WeightsVersion = ofVersion("WEIGHTS");
