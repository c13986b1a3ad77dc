// @ts-check
/** Jobs in rows: those that wait, those that run, and those that are over. */
import { Link } from "../router.js";
import { bytes, clock, seconds, shortId, shortModel, span } from "../units.js";
import { html, useMemo } from "../vendor/preact.js";
import { JobLink, JobPill, accuracy, between, isOver, jobName, share } from "./job_parts.js";

/**
 * @typedef {{ choose: (job: any) => void, cancel: (job: any) => void, prioritise: (job: any) => void, retry: (job: any) => void, may: (job: any) => boolean, submits: boolean }} Deed
 * @typedef {{ jobs: any[], now: number, chosen: Map<string, any>, deed: Deed }} Rows
 * @typedef {{ job: any, now: number, isChosen: boolean, deed: Deed }} One
 */

/**
 * A table without `table`: only rows that are blocks can be left undrawn while nobody sees them.
 * @param {Rows & { kind: string, heads: string[], row: any }} props
 */
function Table({ kind, heads, row, jobs, now, chosen, deed }) {
  return html`<div class=${`rows ${kind}`} role="table" aria-labelledby=${`of-${kind}`}>
    <div class="row heads" role="row">
      ${heads.map((name) => html`<span role="columnheader" key=${name}>${name}</span>`)}
      <span role="columnheader"><span class="skip">Orders</span></span>
    </div>
    ${jobs.map((job) => html`<${row} key=${job.id} job=${job} now=${now} isChosen=${chosen.has(job.id)} deed=${deed} />`)}
  </div>`;
}

/** Made once: it takes a while. */
const WHOLE = new Intl.DateTimeFormat([], { dateStyle: "medium", timeStyle: "short" });

/** @param {any} props */
const Cell = ({ name, children, ...rest }) => html`<div role="cell" class=${name} ...${rest}>${children}</div>`;

/** Whom it is of, and what it trains. @param {One} props */
function Head({ job, isChosen, deed }) {
  const { model = "", data = "" } = job.spec?.train || {};
  const trained = data.startsWith("/") ? data.split("/").slice(-2, -1)[0] : data.replace(/@(.{12}).*/, "@$1");
  return html`<${Cell} name="what">
    <input type="checkbox" aria-label=${`Choose ${jobName(job)}`} checked=${isChosen} onChange=${() => deed.choose(job)} />
    <div>
      <div class="line"><${JobLink} job=${job} />${job.spec?.priority ? html`<span class="muted">priority ${job.spec.priority}</span>` : ""}
        ${job.sweepId && html`<${Link} to=${`/compare?sweep=${job.sweepId}`} class="muted" aria-label=${`sweep of ${jobName(job)}`}>sweep<//>`}</div>
      <div class="muted small clip" title=${data}>${shortId(job.id)} · ${model} · ${trained}</div>
    </div>
  <//>`;
}

/** @param {{ job: any, deed: Deed }} props */
function Deeds({ job, deed }) {
  const of = jobName(job);
  const may = deed.may(job);
  return html`<${Cell} name="deeds">
    ${may && job.state === "QUEUED" && html`<button type="button" class="plain" aria-label=${`Priority of ${of}`} onClick=${() => deed.prioritise(job)}>Priority</button>`}
    ${may && !isOver(job) && html`<button type="button" class="plain" aria-label=${`Cancel ${of}`} onClick=${() => deed.cancel(job)}>Cancel</button>`}
    ${may &&
    (job.state === "FAILED" || job.state === "CANCELLED") &&
    html`<button type="button" class="plain" aria-label=${`Retry ${of}`} onClick=${() => deed.retry(job)}>Retry</button>`}
    ${deed.submits && html`<${Link} to=${`/new?from=${job.id}`} class="plain" aria-label=${`Clone ${of}`}>Clone<//>`}
  <//>`;
}

/** When, and how long until then. @param {{ name: string, time?: string, now: number }} props */
function Until({ name, time, now }) {
  const label = name === "first" ? "starts" : "ends";
  const left = time ? (Date.parse(time) - now) / 1000 : 0;
  return html`<${Cell} name=${name} title=${time ? WHOLE.format(new Date(time)) : ""}>
    ${time && html`<span class="muted small tag">${label} </span>`}
    ${time ? html`<b>${left > 0 ? `in ${span(left)}` : "now"}</b><span class="muted small">${clock(time)}</span>` : html`<span class="muted none">–</span>`}
  <//>`;
}

/** How long ago. @param {{ name: string, time?: string, now: number }} props */
function Ago({ name, time, now }) {
  return html`<${Cell} name=${name} title=${time ? WHOLE.format(new Date(time)) : ""}>
    <span class="muted">${time ? `${span((now - Date.parse(time)) / 1000)} ago` : "–"}</span>
  <//>`;
}

/** @param {(props: One) => any} draw Drawn anew only when something that it shows has changed. */
const row = (draw) => (/** @type {One} */ props) => useMemo(() => draw(props), [props.job, props.isChosen, props.now, props.deed]);

const WaitingRow = row(
  ({ job, now, isChosen, deed }) => html`<div class="row" role="row">
    <${Cell} name=${job.queuePosition ? "place" : "place none"}>${job.queuePosition || "–"}<//>
    <${Head} job=${job} isChosen=${isChosen} deed=${deed} now=${now} />
    <${Cell} name="user">${job.user}<//>
    <${Cell} name="why" title=${job.waitingSentence || job.stateReason}>${job.waitingSentence || job.stateReason}<//>
    <${Until} name="first" time=${job.estimatedStartTime} now=${now} />
    <${Until} name="last" time=${job.estimatedEndTime} now=${now} />
    <${Ago} name="age" time=${job.createTime} now=${now} />
    <${Deeds} job=${job} deed=${deed} />
  </div>`,
);

/** @param {Rows} props */
export function Waiting(props) {
  return html`<${Table} kind="Waiting" heads=${["#", "Job", "User", "Why it waits", "Starts", "Ends", "Submitted"]} row=${WaitingRow} ...${props} />`;
}

/** How far a bar is, and two words under it. @param {{ name: string, done: number, left: string, right: string }} props */
function Bar({ name, done, left, right }) {
  const percent = Math.round(100 * done);
  return html`<div class="progress" role="progressbar" aria-label=${name} aria-valuemin="0" aria-valuemax="100" aria-valuenow=${percent}>
      <i style=${{ width: `${percent}%` }}></i>
    </div>
    <div class="line muted"><span>${left}</span><span>${right}</span></div>`;
}

/** How far training is, or what comes to the machine before it. @param {{ job: any, attempt: any }} props */
function Going({ job, attempt }) {
  const { progress } = job;
  const { doneBytes = 0, totalBytes = 0, bytesPerSecond = 0 } = (job.state === "STARTING" && attempt?.fetching) || {};
  if (Number(totalBytes)) {
    const right = bytesPerSecond ? `${bytes(bytesPerSecond)}/s` : "";
    return html`<${Bar} name="Fetching" done=${doneBytes / totalBytes} left=${`${bytes(doneBytes)} / ${bytes(totalBytes)}`} right=${right} />`;
  }
  if (!progress?.epochs) return job.state === "STARTING" ? html`<span class="muted">${job.stateReason}</span>` : html`<span class="muted none">–</span>`;
  const right = progress.imagesPerSecond ? `${progress.imagesPerSecond.toFixed(0)} images/s` : "";
  return html`<${Bar} name="Progress" done=${share(progress)} left=${`epoch ${progress.epoch || 0} / ${progress.epochs}`} right=${right} />`;
}

const RunningRow = row(({ job, now, isChosen, deed }) => {
  const attempt = job.attempts?.at(-1);
  const isHandingIn = attempt?.slotReleasedTime && !attempt.endTime;
  const left = seconds(job.progress?.eta);
  const end = job.estimatedEndTime || (left === undefined ? undefined : new Date(now + 1000 * left).toISOString());
  return html`<div class="row" role="row">
    <${Cell} name="place"><${JobPill} state=${job.state} /><//>
    <${Head} job=${job} isChosen=${isChosen} deed=${deed} now=${now} />
    <${Cell} name="user">${job.user}<//>
    <${Cell} name="why" title=${job.stateReason}>
      ${isHandingIn || !attempt ? job.stateReason : html`${attempt.agentName} <span class="muted">${shortModel(attempt.device || "")}</span>`}
    <//>
    <${Cell} name="going"><${Going} job=${job} attempt=${attempt} /><//>
    <${Cell} name="map"><span class="muted small tag">mAP</span> ${accuracy(job)}<//>
    <${Until} name="last" time=${end} now=${now} />
    <${Deeds} job=${job} deed=${deed} />
  </div>`;
});

/** @param {Rows} props */
export function Running(props) {
  return html`<${Table} kind="Running" heads=${["State", "Job", "User", "Where", "Progress", "mAP50-95", "Ends"]} row=${RunningRow} ...${props} />`;
}

const FinishedRow = row(({ job, now, isChosen, deed }) => {
  const took = between(job.startTime, job.endTime);
  return html`<div class="row" role="row">
    <${Cell} name="place"><${JobPill} state=${job.state} /><//>
    <${Head} job=${job} isChosen=${isChosen} deed=${deed} now=${now} />
    <${Cell} name="user">${job.user}<//>
    <${Cell} name="why" title=${job.stateReason}>${job.stateReason}<//>
    <${Cell} name="map"><span class="muted small tag">mAP</span> ${accuracy(job)}<//>
    <${Cell} name="first">${took === undefined ? html`<span class="muted none">–</span>` : span(took)}<//>
    <${Ago} name="age" time=${job.endTime} now=${now} />
    <${Deeds} job=${job} deed=${deed} />
  </div>`;
});

/** @param {Rows} props */
export function Finished(props) {
  return html`<${Table} kind="Finished" heads=${["State", "Job", "User", "How it ended", "mAP50-95", "Trained", "Ended"]} row=${FinishedRow} ...${props} />`;
}
