// @ts-check
/** Chooses jobs to compare, from the newest ones. */
import { call } from "../api.js";
import { attempt } from "../layout.js";
import { Link, go } from "../router.js";
import { clock } from "../units.js";
import { html, useEffect, useState } from "../vendor/preact.js";
import { JobLink, JobPill, accuracy, jobName } from "./job_parts.js";

/** Jobs to choose from, and jobs of one comparison. */
const [LISTED, MOST] = [200, 24];

export function Picker() {
  const [jobs, setJobs] = useState(/** @type {any[] | null} */ (null));
  const [chosen, setChosen] = useState(/** @type {string[]} */ ([]));
  const [text, setText] = useState("");
  useEffect(() => {
    let isOpen = true;
    attempt(async () => {
      const { jobs: found = [] } = await call("JobService/ListJobs", { pageSize: LISTED });
      if (isOpen) setJobs(found);
    });
    return () => void (isOpen = false);
  }, []);
  if (!jobs) return null;
  const wanted = text.trim().toLowerCase();
  const fits = (/** @type {any} */ job) => chosen.includes(job.id) || !wanted || [jobName(job), job.user, job.id, job.spec?.train?.data].some((part) => part?.toLowerCase().includes(wanted));
  const toggle = (/** @type {string} */ id) => setChosen(chosen.includes(id) ? chosen.filter((one) => one !== id) : [...chosen, id].slice(-MOST));
  return html`
    <div class="controls">
      <input type="search" aria-label="Name, owner or data set" placeholder="Name, owner or data set" value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)} />
      <button type="button" class="main" disabled=${!chosen.length} onClick=${() => go(`/compare?jobs=${chosen.join()}`)}>Compare ${chosen.length || ""}</button>
    </div>
    <div class="panel"><div class="scroll" tabindex="0" role="group" aria-label="Jobs"><table class="sorted picker">
      <thead><tr><th scope="col">Job</th><th scope="col">State</th><th scope="col" class="number">mAP50-95</th><th scope="col">Owner</th><th scope="col">Data</th><th scope="col">Submitted</th><th scope="col">Sweep</th></tr></thead>
      <tbody>${jobs.filter(fits).map(
        (job) => html`<tr key=${job.id}>
          <th scope="row"><span class="row-name"><input type="checkbox" checked=${chosen.includes(job.id)} onChange=${() => toggle(job.id)} aria-label=${`Compare ${jobName(job)}`} /><${JobLink} job=${job} /></span></th>
          <td><${JobPill} state=${job.state} /></td><td class="number">${accuracy(job)}</td><td>${job.user}</td><td class="data" title=${job.spec?.train?.data}>${job.spec?.train?.data}</td><td>${clock(job.createTime)}</td>
          <td>${job.sweepId && html`<${Link} to=${`/compare?sweep=${job.sweepId}`}>${job.sweepId.slice(0, 13)}<//>`}</td>
        </tr>`,
      )}</tbody>
    </table></div>${!jobs.length && html`<p class="muted empty">–</p>`}</div>`;
}
