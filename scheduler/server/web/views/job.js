// @ts-check
/** One job: how it goes, what it measures, says, and leaves behind. */
import { ApiError, call } from "../api.js";
import { attempt, note } from "../layout.js";
import { onJobs } from "../live.js";
import { Link, go } from "../router.js";
import { clock, percent, seconds, span } from "../units.js";
import { html, useEffect, useState } from "../vendor/preact.js";
import { Artifacts } from "./artifacts.js";
import { confirm } from "./confirm.js";
import { prioritise } from "./job_lists.js";
import { JobCurves } from "./job_curves.js";
import { useEvents } from "./job_events.js";
import { JobPill, isOver, jobName, mayChange, share } from "./job_parts.js";
import { Attempts, Classes, Placement, Settings, Speed } from "./job_tables.js";
import { Log } from "./log.js";

/** The job as it is, by its id or the start of it. @param {string} id */
function useJob(id) {
  const [job, setJob] = useState(/** @type {any} */ (null));
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  useEffect(() => {
    let [isOpen, whole] = [true, id];
    const read = async () => {
      try {
        const found = await call("JobService/GetJob", { jobId: id });
        if (!isOpen) return;
        whole = found.id;
        setJob(found);
        setError(null);
      } catch (cause) {
        if (isOpen) setError(/** @type {Error} */ (cause));
      }
    };
    read();
    // What is told of queues and ends goes with the time, also where nothing happens.
    const timer = setInterval(read, 30000);
    const end = onJobs(({ jobs, removedJobIds, jobsMissed }) => {
      const own = jobs.find((one) => one.id === whole);
      if (own) setJob(own);
      else if (jobsMissed || removedJobIds.includes(whole)) read();
    });
    return () => {
      isOpen = false;
      clearInterval(timer);
      end();
    };
  }, [id]);
  return { job, error, setJob };
}

/** @param {{ params: { id: string }, query: URLSearchParams, caller: any }} props */
export function Job({ params, query, caller }) {
  const { job, error, setJob } = useJob(params.id);
  const id = job?.id;
  useEffect(() => {
    if (id && id !== params.id) go(`/jobs/${id}${location.search}`, { replace: true });
    if (job) document.title = `${jobName(job)} · Trainyard`;
  }, [id]);
  if (!job) {
    return error && html`<h1>${error instanceof ApiError && error.code === "not_found" ? "No such job" : "Job"}</h1>
      <p class="notice" role="alert">${error.message}</p>
      <p><${Link} to="/jobs">Jobs<//></p>`;
  }
  return html`
    <${Head} job=${job} caller=${caller} onChange=${setJob} />
    ${error && html`<p class="notice" role="alert">${error.message}</p>`}
    <${Body} key=${id} job=${job} query=${query} />
  `;
}

/** @param {{ job: any, query: URLSearchParams }} props */
function Body({ job, query }) {
  const { kept, version } = useEvents([job.id]);
  const own = kept.get(job.id);
  return html`
    <${JobCurves} job=${job} curves=${own?.curves} query=${query} version=${version} />
    <div class="panels">
      <div>
        <${Log} lines=${own?.lines || []} />
        <${Attempts} job=${job} />
      </div>
      <div>
        <${Speed} job=${job} />
        <${Placement} job=${job} />
        <${Classes} metrics=${job.progress?.metrics || {}} />
      </div>
    </div>
    <div class="panels">
      <${Artifacts} job=${job} />
      <${Settings} spec=${job.spec} />
    </div>
  `;
}

/** @param {{ job: any, caller: any, onChange: (job: any) => void }} props */
function Head({ job, caller, onChange }) {
  const may = mayChange(caller, job);
  const give = (/** @type {string} */ method) => attempt(async () => onChange(await call(`JobService/${method}`, { jobId: job.id })));
  const cancel = async () => (await confirm(`Cancel ${jobName(job)}?`, "Cancel the job")) && give("CancelJob");
  const copy = () => attempt(async () => {
    await navigator.clipboard.writeText(job.id);
    note("copied", "done");
  });
  const reason = [job.queuePosition && `#${job.queuePosition}`, job.waitingSentence || job.stateReason].filter(Boolean).join(" ");
  const facts = [
    ["owner", job.user],
    ["submitted", clock(job.createTime)],
    ["started", job.startTime && clock(job.startTime)],
    ["ended", job.endTime && clock(job.endTime)],
    ["took", job.startTime && job.endTime && span((Date.parse(job.endTime) - Date.parse(job.startTime)) / 1000)],
    ["starts about", job.estimatedStartTime && clock(job.estimatedStartTime)],
    ["ends about", job.estimatedEndTime && clock(job.estimatedEndTime)],
    ["first estimate of its end", job.firstEstimate?.endTime && clock(job.firstEstimate.endTime)],
    ["later than that", job.firstEstimate?.endDeviation && off(job.firstEstimate.endDeviation)],
    ["priority", job.spec?.priority],
  ].filter(([, value]) => value);
  return html`<div class="job-head">
    <div class="title"><h1>${jobName(job)}</h1><${JobPill} state=${job.state} />
      <span class="grow"></span>
      <div class="buttons">
        ${may && job.state === "QUEUED" && html`<button type="button" onClick=${async () => onChange((await prioritise(job)) || job)}>Priority</button>`}
        ${may && !isOver(job) && html`<button type="button" class="danger" onClick=${cancel}>Cancel</button>`}
        ${may && (job.state === "FAILED" || job.state === "CANCELLED") && html`<button type="button" onClick=${() => give("RetryJob")}>Retry</button>`}
        <${Link} class="button" to=${`/compare?jobs=${job.id}`}>Compare<//>
        ${caller.role !== "VIEWER" && html`<${Link} class="button" to=${`/new?from=${job.id}`}>Clone with changes<//>`}
      </div>
    </div>
    ${reason && html`<p class=${job.state === "FAILED" ? "problem" : "said"}>${reason}</p>`}
    <${Progress} job=${job} />
    <dl class="terms">
      ${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}
      ${job.sweepId && html`<div><dt>sweep</dt><dd><${Link} to=${`/compare?sweep=${job.sweepId}`}>${job.sweepId.slice(0, 13)}<//></dd></div>`}
      ${Object.entries(job.spec?.labels || {}).filter(([name]) => name !== "sweep").map(([name, value]) => html`<div key=${`label ${name}`}><dt>${name}</dt><dd>${value}</dd></div>`)}
      <div><dt>id</dt><dd><button type="button" class="id" onClick=${copy} title="Copy"><code>${job.id}</code></button></dd></div>
    </dl>
  </div>`;
}

/** How far an estimate was off. @param {string} deviation */
function off(deviation) {
  const by = seconds(deviation) || 0;
  return `${by < 0 ? "−" : ""}${span(Math.abs(by))}`;
}

/** How far it is, and until when. @param {{ job: any }} props */
function Progress({ job }) {
  const progress = job.progress;
  const fetching = job.attempts?.at(-1)?.fetching;
  if (fetching && !job.attempts.at(-1).startTime) {
    const part = Number(fetching.doneBytes || 0) / Number(fetching.totalBytes || 1);
    return html`<${Bar} part=${part} left=${fetching.what} right=${percent(part)} />`;
  }
  if (!progress?.epochs) return null;
  const eta = isOver(job) ? undefined : seconds(progress.eta);
  const left = [
    `epoch ${progress.epoch || 0} / ${progress.epochs}`,
    !isOver(job) && progress.batches && `batch ${progress.batch || 0} / ${progress.batches}`,
    progress.batchSize && `${progress.batchSize} images a batch`,
    progress.imagesPerSecond && `${progress.imagesPerSecond.toFixed(1)} images/s`,
  ].filter(Boolean).join(" · ");
  return html`<${Bar} part=${job.state === "SUCCEEDED" ? 1 : share(progress)} left=${left} right=${eta === undefined ? "" : `${span(eta)} left`} />`;
}

/** @param {{ part: number, left: string, right: string }} props */
function Bar({ part, left, right }) {
  return html`<div class="far">
    <div class="progress" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(100 * part)}>
      <i style=${{ width: `${100 * part}%` }}></i>
    </div>
    <div class="line muted"><span>${left}</span><span>${right}</span></div>
  </div>`;
}
