// @ts-check
/** What becomes of a job that is not queued yet, as far as the scheduler says it. */
import { callAll } from "../api.js";
import { attempt } from "../layout.js";
import { Link } from "../router.js";
import { clock, seconds, shortModel, span } from "../units.js";
import { html, useEffect, useState } from "../vendor/preact.js";

/** How fast GPUs are, as known when the page was opened. */
function useRates() {
  const [rates, setRates] = useState(/** @type {any[]} */ ([]));
  useEffect(() => void attempt(async () => setRates(await callAll("ClusterService/ListRates", {}, "rates"))), []);
  return rates;
}

/** GPUs by model: all, and those that take a job now. @param {Map<string, any>} agents */
function gpusOf(agents) {
  /** @type {Map<string, { free: number, total: number }>} */
  const kinds = new Map();
  const add = (/** @type {string} */ model, /** @type {any} */ slot) => {
    const kind = kinds.get(model) || { free: 0, total: 0 };
    kinds.set(model, { free: kind.free + (slot.status === "free" ? 1 : 0), total: kind.total + 1 });
  };
  for (const agent of agents.values()) {
    for (const gpu of agent.gpus || []) add(gpu.model, gpu);
    for (const slot of agent.cpuSlots || []) add("CPU", slot);
  }
  return kinds;
}

/** The largest batch that was measured. @param {Map<string, any>} agents @param {any} train @param {string} device */
function measured(agents, { model, imgsz }, device) {
  const records = [...agents.values()].flatMap((agent) => agent.fitRecords || []);
  const sizes = records.filter((one) => one.device === device && one.model === model && one.imgsz === imgsz).map((one) => one.batchSize || 0);
  return Math.max(0, ...sizes) || undefined;
}

/** @param {{ checked: any, agents: Map<string, any>, isSent: boolean }} props */
export function Plan({ checked, agents, isSent }) {
  const rates = useRates();
  const { problems, trouble, job, isChecked } = checked;
  const [name, version] = (job?.spec?.train?.data || "").split("@");
  /** @type {[string, any][]} */
  const facts = [
    ["data", version && html`<${Link} to=${`/data/${name}/${version}`}>${name}@${version.slice(0, 12)}<//>`],
    ["starts", job?.estimatedStartTime && clock(job.estimatedStartTime)],
    ["ends", job?.estimatedEndTime && clock(job.estimatedEndTime)],
    ["batch", job?.attempts?.at(-1)?.batchChosen?.batchSize],
  ];
  const options = job?.attempts?.at(-1)?.choice?.options;
  return html`<h2>Plan</h2>
    ${!isChecked && html`<p class="muted">Choose a data set.</p>`}
    ${trouble && html`<p class="notice" role="alert">${trouble}</p>`}
    <div role="status" class="wrong">
      ${[...problems].map(([path, text]) => html`<p key=${path}><a href=${`#f-${path}`} onClick=${reach}>${path.split(".").at(-1)}</a> ${text}</p>`)}
    </div>
    ${job && html`<p class="valid"><span class="pill good">valid</span> ${job.waitingFor || ""}</p>`}
    ${facts.some(([, value]) => value) &&
    html`<dl class="terms">${facts.map(([term, value]) => value && html`<div key=${term}><dt>${term}</dt><dd>${value}</dd></div>`)}</dl>`}
    ${job && (options?.length ? html`<${Options} options=${options} />` : html`<${Speeds} train=${job.spec.train} device=${job.spec.resources?.device} rates=${rates} agents=${agents} />`)}
    <button type="submit" class="main" disabled=${isSent}>Submit</button>`;
}

/** @param {MouseEvent} event */
function reach(event) {
  event.preventDefault();
  const target = /** @type {HTMLAnchorElement} */ (event.currentTarget).hash.slice(1);
  document.getElementById(target)?.focus();
}

/** Where it could go, the best first. @param {{ options: any[] }} props */
function Options({ options }) {
  const time = (/** @type {string | undefined} */ text) => span(seconds(text) || 0);
  return html`<table class="speeds">
    <thead><tr><th>GPU</th><th>free</th><th>waits</th><th>takes</th></tr></thead>
    <tbody>
      ${options.map((one) => html`<tr key=${one.device}><td>${shortModel(one.device)}</td><td>${one.free || 0} / ${one.total || 0}</td><td>${time(one.waits)}</td><td>${time(one.takes)}</td></tr>`)}
    </tbody>
  </table>`;
}

/** How fast what there is trains such a job. @param {{ train: any, device: string, rates: any[], agents: Map<string, any> }} props */
function Speeds({ train, device, rates, agents }) {
  const kinds = [...gpusOf(agents)].filter(([model]) => (model === "CPU") === (device === "cpu"));
  const rate = (/** @type {string} */ model) =>
    rates.find((one) => one.device === model && one.model === train.model && one.imgsz === train.imgsz && (one.amp || false) === train.amp);
  if (!kinds.length) return null;
  const rows = kinds.map(([model, counts]) => ({ model, ...counts, rate: rate(model), batch: measured(agents, train, model) }));
  rows.sort((one, other) => (other.rate?.imagesPerSecond || 0) - (one.rate?.imagesPerSecond || 0) || one.model.localeCompare(other.model));
  return html`<table class="speeds">
    <caption>${train.model} at ${train.imgsz} px</caption>
    <thead><tr><th>${device === "cpu" ? "slot" : "GPU"}</th><th>free</th><th>batch</th><th>images/s</th></tr></thead>
    <tbody>
      ${rows.map(
        (one) => html`<tr key=${one.model}>
          <td>${shortModel(one.model)}</td><td>${one.free} / ${one.total}</td><td>${one.batch || "–"}</td>
          <td>${one.rate ? `${one.rate.measured ? "" : "≈ "}${one.rate.imagesPerSecond.toFixed(0)}` : "–"}</td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}
