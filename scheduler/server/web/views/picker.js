// @ts-check
/** Chooses jobs to compare, from the newest ones. */
import { call } from "../api.js";
import { attempt } from "../layout.js";
import { onJobs } from "../live.js";
import { Link, go } from "../router.js";
import { clock, count, short } from "../units.js";
import { html, useEffect, useState } from "../vendor/preact.js";
import { JobLink, JobPill, accuracy, jobName } from "./job_parts.js";

/** Rows to choose from, jobs that are read for them, and jobs of one comparison. */
const [LISTED, READ, MOST] = [200, 2000, 24];
/** Milliseconds after a job has come or gone until they are listed anew. */
const SOON = 1000;
const MAP = "metrics/mAP50-95(B)";

/** A job by itself, or a sweep with its newest job. @typedef {{ key: string, job: any, jobs: any[] }} Row */

/** The newest jobs, those of a sweep together. @returns {Promise<Row[]>} */
async function newest() {
  /** @type {Map<string, Row>} */
  const rows = new Map();
  let [pageToken, read] = ["", 0];
  do {
    const answer = await call("JobService/ListJobs", { pageSize: 500, pageToken });
    for (const job of answer.jobs || []) {
      const key = job.sweepId || job.id;
      const row = rows.get(key) || { key, job, jobs: /** @type {any[]} */ ([]) };
      row.jobs.push(job);
      rows.set(key, row);
    }
    pageToken = answer.nextPageToken || "";
    read += 500;
  } while (pageToken && rows.size < LISTED && read < READ);
  return [...rows.values()];
}

/** The best of a sweep. @param {any[]} jobs */
const best = (jobs) => jobs.reduce((one, other) => ((other.progress?.metrics?.[MAP] ?? -1) > (one.progress?.metrics?.[MAP] ?? -1) ? other : one));

export function Picker() {
  const [rows, setRows] = useState(/** @type {Row[] | null} */ (null));
  const [chosen, setChosen] = useState(/** @type {string[]} */ ([]));
  const [text, setText] = useState("");
  useEffect(() => {
    let isOpen = true;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    /** @type {Set<string>} */
    let known = new Set();
    const list = async () => {
      timer = undefined;
      const found = await newest();
      if (!isOpen) return;
      known = new Set(found.flatMap((row) => row.jobs.map((job) => job.id)));
      setRows(found);
    };
    attempt(list);
    const end = onJobs(({ jobs, removedJobIds, jobsMissed }) => {
      const news = new Map(jobs.map((job) => [job.id, job]));
      const fresh = (/** @type {any} */ job) => news.get(job.id) || job;
      setRows((rows) => rows && rows.map((row) => ({ ...row, job: fresh(row.job), jobs: row.jobs.map(fresh) })));
      const isOther = jobsMissed || jobs.some((job) => !known.has(job.id)) || removedJobIds.some((id) => known.has(id));
      // What cannot be listed now is listed after the next change.
      if (isOther) timer ??= setTimeout(() => list().catch(() => {}), SOON);
    });
    return () => {
      isOpen = false;
      clearTimeout(timer);
      end();
    };
  }, []);
  if (!rows) return null;
  const wanted = text.trim().toLowerCase();
  const fits = (/** @type {Row} */ { job }) => chosen.includes(job.id) || !wanted || [jobName(job), job.user, job.id, job.spec?.train?.data].some((part) => part?.toLowerCase().includes(wanted));
  const toggle = (/** @type {string} */ id) => setChosen(chosen.includes(id) ? chosen.filter((one) => one !== id) : [...chosen, id].slice(-MOST));
  return html`
    <div class="controls">
      <input type="search" aria-label="Name, owner or data set" placeholder="Name, owner or data set" value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)} />
      <button type="button" class="main" disabled=${!chosen.length} onClick=${() => go(`/compare?jobs=${chosen.join()}`)}>Compare ${chosen.length || ""}</button>
    </div>
    <div class="panel"><div class="scroll" tabindex="0" role="group" aria-label="Jobs"><table class="sorted picker">
      <thead><tr><th scope="col">Job</th><th scope="col">State</th><th scope="col" class="number">mAP50-95</th><th scope="col">Owner</th><th scope="col">Data</th><th scope="col">Submitted</th></tr></thead>
      <tbody>${rows.filter(fits).map(
        ({ key, job, jobs }) => html`<tr key=${key}>
          <th scope="row"><span class="row-name">${job.sweepId
            ? html`<${Link} to=${`/compare?sweep=${key}`}>${jobName(job)}<//>`
            : html`<input type="checkbox" checked=${chosen.includes(job.id)} onChange=${() => toggle(job.id)} aria-label=${`Compare ${jobName(job)}`} /><${JobLink} job=${job} />`}</span></th>
          <td>${job.sweepId ? html`<span class="muted">sweep, ${count(jobs.length, "job")}</span>` : html`<${JobPill} state=${job.state} />`}</td>
          <td class="number">${accuracy(best(jobs))}</td><td>${job.user}</td><td class="data" title=${job.spec?.train?.data}>${short(job.spec?.train?.data || "")}</td><td>${clock(job.createTime)}</td>
        </tr>`,
      )}</tbody>
    </table></div>${!rows.length && html`<p class="muted empty">–</p>`}</div>`;
}
