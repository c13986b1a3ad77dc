// @ts-check
/** What is told of a job in tables: its speed, attempts, placement, classes and settings. */
import { call } from "../api.js";
import { Link } from "../router.js";
import { clock, seconds, span } from "../units.js";
import { html, useEffect, useMemo, useState } from "../vendor/preact.js";
import { color, figure } from "./chart.js";
import { ofClass } from "./curves.js";
import { isOver } from "./job_parts.js";
import { SortTable } from "./sort_table.js";
import { settings } from "./spec.js";

const PHASES = ["wait", "copy", "forward", "loss", "backward", "optimizer"];
/** Milliseconds between two questions of what holds it up. */
const ASK = 60000;

/** `trainer crash` of `TRAINER_CRASH`. @param {string | undefined} name */
const word = (name) => (name || "").toLowerCase().replaceAll("_", " ");

/** @param {{ title: string, id: string, children?: any }} props */
export function Panel({ title, id, children }) {
  return html`<section class="panel" aria-labelledby=${id}><header><h2 id=${id}>${title}</h2></header>${children}</section>`;
}

/** Where a step's time goes, and what the scheduler makes of it. @param {{ job: any }} props */
export function Speed({ job }) {
  const [told, setTold] = useState(/** @type {any} */ (null));
  const phases = job.progress?.phases;
  const isKnown = !!job.progress?.epochs;
  useEffect(() => {
    if (!isKnown) return undefined;
    const stop = new AbortController();
    const ask = () => call("JobService/DiagnoseJob", { jobId: job.id }, { signal: stop.signal }).then(setTold, () => {});
    ask();
    const timer = isOver(job) ? undefined : setInterval(ask, ASK);
    return () => {
      stop.abort();
      clearInterval(timer);
    };
  }, [job.id, isKnown, job.state]);
  if (!isKnown) return null;
  const all = PHASES.reduce((sum, name) => sum + (phases?.[name] || 0), 0);
  const list = (/** @type {string} */ title, /** @type {string[]} */ lines) =>
    lines?.length > 0 && html`<h3>${title}</h3><ul class="lines">${lines.map((line) => html`<li key=${line}>${line}</li>`)}</ul>`;
  return html`<${Panel} title="Speed" id="speed">
    ${told?.headline && html`<p class="verdict">${told.headline}</p>`}
    ${all > 0 && html`<div class="phases" aria-hidden="true">
        ${PHASES.map((name, at) => html`<i key=${name} style=${{ width: `${(100 * (phases[name] || 0)) / all}%`, background: color(at) }}></i>`)}
      </div>
      <dl class="terms">${PHASES.map((name, at) => html`<div key=${name}><dt><i class="dot" style=${{ background: color(at) }}></i>${name}</dt><dd>${figure(1000 * (phases[name] || 0))} ms</dd></div>`)}</dl>`}
    ${told && html`${list("What was seen", told.findings)}${list("What to change", told.advice)}`}
  <//>`;
}

/** @param {{ job: any }} props */
export function Attempts({ job }) {
  const attempts = [...(job.attempts || [])].reverse();
  if (!attempts.length) return null;
  const time = (/** @type {string | undefined} */ at) => (at ? clock(at) : "–");
  return html`<${Panel} title="Attempts" id="attempts">
    <div class="scroll" tabindex="0" role="group" aria-labelledby="attempts"><table>
      <thead><tr>${["", "Machine", "Device", "Placed", "Started", "Ended", "How"].map((name) => html`<th key=${name} scope="col">${name || "#"}</th>`)}</tr></thead>
      <tbody>${attempts.map(
        (one) => html`<tr key=${one.number}>
            <td>${one.number}</td><td>${one.agentName}</td><td>${one.device}</td>
            <td>${time(one.placedTime)}</td><td>${time(one.startTime)}</td><td>${time(one.endTime)}</td><td>${word(one.endReason) || "–"}</td>
          </tr>
          ${(one.message || one.unfit?.message) && html`<tr class="told" key=${`${one.number} more`}><td></td><td colspan="6">${one.message || one.unfit.message}</td></tr>`}`,
      )}</tbody>
    </table></div>
  <//>`;
}

/** Why it went where it is, and with which batch size. @param {{ job: any }} props */
export function Placement({ job }) {
  const attempt = (job.attempts || []).at(-1);
  const { choice = {}, batchChosen: batch } = attempt || {};
  const options = choice.options || [];
  const reasons = attempt?.placementReasons || [];
  if (!options.length && !batch && !reasons.length) return null;
  const long = (/** @type {string | undefined} */ text) => span(seconds(text) || 0);
  return html`<${Panel} title="Placement" id="placement">
    ${options.length > 0 &&
    html`<div class="scroll" tabindex="0" role="group" aria-labelledby="placement"><table>
      <thead><tr>${["Device", "Free", "Waits", "Takes", "Delays others", "Speed"].map((name) => html`<th key=${name} scope="col">${name}</th>`)}</tr></thead>
      <tbody>${options.map(
        (/** @type {any} */ one, /** @type {number} */ at) => html`<tr key=${one.device} class=${at ? "" : "marked"}>
          <td>${one.device}</td><td>${one.free || 0} of ${one.total || 0}</td><td>${long(one.waits)}</td><td>${long(one.takes)}</td>
          <td>${long(one.delaysOthers)}</td><td>${one.measured ? "measured" : "estimated"}</td></tr>`,
      )}</tbody>
    </table></div>`}
    ${reasons.map((/** @type {string} */ text) => html`<p key=${text}>${text}</p>`)}
    <dl class="terms">
      ${choice.madeWayJobId && html`<div><dt>preempted for it</dt><dd><${Link} to=${`/jobs/${choice.madeWayJobId}`}>${choice.madeWayJobId.slice(0, 13)}<//></dd></div>`}
      ${attempt.expectedEndTime && html`<div><dt>was to end</dt><dd>${clock(attempt.expectedEndTime)}</dd></div>`}
      ${attempt.trainImages && html`<div><dt>training images</dt><dd>${attempt.trainImages}</dd></div>`}
      ${batch && html`<div><dt>batch size</dt><dd>${batch.batchSize}</dd></div>`}
    </dl>
    ${batch?.layers?.length > 0 &&
    html`<table class="layers"><tbody>${batch.layers.map((/** @type {any} */ one) => html`<tr key=${one.name}><td>${one.batchSize || 0}</td><td>${one.name}</td><td class="muted">${one.reason}</td></tr>`)}</tbody></table>`}
  <//>`;
}

const [MAP50, MAP] = ["metrics/mAP50(B)", "metrics/mAP50-95(B)"];

/** What the best weights reach, class by class. @param {{ metrics: Record<string, number> }} props */
export function Classes({ metrics }) {
  const names = [...new Set(Object.keys(metrics).filter(ofClass).map((name) => name.slice(name.indexOf("(B)/") + 4)))].sort();
  const [sort, setSort] = useState("-mAP50-95");
  const rows = useMemo(() => names.map((name) => ({ key: name, cells: [name, metrics[`${MAP50}/${name}`], metrics[`${MAP}/${name}`]] })), [metrics]);
  if (!names.length) return null;
  const all = { key: "all", cells: ["all classes", metrics[MAP50], metrics[MAP]] };
  return html`<${Panel} title=${`Classes (${names.length})`} id="classes">
    <${SortTable} label="Classes" heads=${["class", "mAP50", "mAP50-95"]} first=${all} rows=${rows} sort=${sort} onSort=${setSort} />
  <//>`;
}

/** @param {{ spec: any }} props */
export function Settings({ spec }) {
  return html`<${Panel} title="Settings" id="settings">
    <dl class="settings">${[...settings(spec)].map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd title=${value}>${value || "–"}</dd></div>`)}</dl>
  <//>`;
}
