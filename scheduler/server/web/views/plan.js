// @ts-check
/** What becomes of a job that is not queued yet, as far as the scheduler says it. */
import { Link } from "../router.js";
import { clock, seconds, shortModel, span } from "../units.js";
import { html } from "../vendor/preact.js";
import { snake } from "./spec.js";

/** @param {{ checked: any, isSent: boolean }} props */
export function Plan({ checked, isSent }) {
  const { problems, trouble, job, plan, isChecked } = checked;
  const [name, version] = (job?.spec?.train?.data || "").split("@");
  /** @type {[string, any][]} */
  const facts = [
    ["data", version && html`<${Link} to=${`/data/${name}/${version}`}>${name}@${version.slice(0, 12)}<//>`],
    ["starts", plan?.startTime && clock(plan.startTime)],
    ["ends", plan?.endTime && clock(plan.endTime)],
  ];
  return html`<h2>Plan</h2>
    ${!isChecked && html`<p class="muted">Choose a data set.</p>`}
    ${trouble && html`<p class="notice" role="alert">${trouble}</p>`}
    <div role="status" class="wrong">
      ${[...problems].map(([path, text]) => html`<p key=${path}><a href=${`#f-${path}`} onClick=${reach}>${snake(path.split(".").at(-1) || "")}</a> ${text}</p>`)}
    </div>
    ${job && html`<p class="valid"><span class="pill good">valid</span> ${plan?.waitingSentence || ""}</p>`}
    ${checked.warnings.map((/** @type {string} */ text) => html`<p class="notice" key=${text}>${text}</p>`)}
    ${facts.some(([, value]) => value) &&
    html`<dl class="terms">${facts.map(([term, value]) => value && html`<div key=${term}><dt>${term}</dt><dd>${value}</dd></div>`)}</dl>`}
    ${plan?.options?.length > 0 && html`<${Options} options=${plan.options} />`}
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
  const time = (/** @type {string | undefined} */ text) => (text === undefined ? "–" : span(seconds(text) || 0));
  return html`<table class="speeds">
    <thead><tr><th>GPU</th><th>free</th><th>batch</th><th>waits</th><th>takes</th></tr></thead>
    <tbody>
      ${options.map(
        (one) => html`<tr key=${one.device}>
          <td>${shortModel(one.device)}</td><td>${one.free || 0} / ${one.total || 0}</td><td>${one.batchSize || "–"}</td>
          <td>${time(one.waits)}</td><td>${one.measured || !one.takes ? "" : "≈ "}${time(one.takes)}</td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}
