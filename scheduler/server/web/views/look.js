// @ts-check
/** How charts are looked at, kept in the address so that a link shows the same. */
import { go } from "../router.js";
import { html } from "../vendor/preact.js";

const AXES = ["epoch", "step", "time"];
const SMOOTHINGS = [0, 0.5, 0.8, 0.9, 0.95, 0.98];

/** Changes parts of the address in place; empty ones go. @param {Record<string, string>} changes */
export function setQuery(changes) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  // Commas and brackets may stand as they are, for people who read it.
  const text = query.toString().replace(/%2C/g, ",").replace(/%2F/g, "/");
  go(location.pathname + (text && `?${text}`), { replace: true });
}

/** @param {URLSearchParams} query */
export function look(query) {
  const axis = /** @type {import("./curves.js").Axis} */ (AXES.find((one) => one === query.get("x")) || "epoch");
  const [from, to] = (query.get("range") || "").split(",").map(Number);
  const range = /** @type {[number, number] | null} */ (from < to ? [from, to] : null);
  const smoothing = Math.min(0.999, Math.max(0, Number(query.get("smooth")) || 0));
  return { axis, smoothing, log: query.get("log") === "1", range };
}

/** @param {[number, number] | null} range */
export const setRange = (range) => setQuery({ range: range ? range.map((one) => Number(one.toPrecision(6))).join(",") : "" });

/** @param {{ query: URLSearchParams, children?: any }} props */
export function Controls({ query, children }) {
  const { axis, smoothing, log, range } = look(query);
  const all = SMOOTHINGS.includes(smoothing) ? SMOOTHINGS : [...SMOOTHINGS, smoothing];
  return html`<div class="controls">
    ${children}
    <span class="choice" role="group" aria-label="Over">
      ${AXES.map((one) => html`<button type="button" key=${one} aria-pressed=${String(one === axis)} onClick=${() => setQuery({ x: one === "epoch" ? "" : one, range: "" })}>${one}</button>`)}
    </span>
    <label>Smoothing <select value=${smoothing} onChange=${(/** @type {any} */ event) => setQuery({ smooth: event.target.value === "0" ? "" : event.target.value })}>
      ${all.map((one) => html`<option key=${one} value=${one} selected=${one === smoothing}>${one || "none"}</option>`)}
    </select></label>
    <label><input type="checkbox" checked=${log} onChange=${() => setQuery({ log: log ? "" : "1" })} /> log scale</label>
    ${range && html`<button type="button" onClick=${() => setRange(null)}>Whole range</button>`}
  </div>`;
}
