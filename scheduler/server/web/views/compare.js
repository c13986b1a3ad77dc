// @ts-check
/** Several jobs beside each other: curves in one chart, what differs, how far they came. All of it is in the address. */
import { call, callAll } from "../api.js";
import { onJobs } from "../live.js";
import { Link } from "../router.js";
import { now } from "../time.js";
import { count, span } from "../units.js";
import { html, useEffect, useMemo, useState } from "../vendor/preact.js";
import { Chart, color } from "./chart.js";
import { ofClass } from "./curves.js";
import { useEvents } from "./job_events.js";
import { JobPill, jobName } from "./job_parts.js";
import { Controls, look, setQuery, setRange } from "./look.js";
import { Parallel } from "./parallel.js";
import { Picker } from "./picker.js";
import { SortTable, sorted } from "./sort_table.js";
import { differing, settings, snake } from "./spec.js";

/** Jobs of one comparison, curves in its chart at once, and those that are shown before anybody chooses. */
const [MOST, CURVES, FIRST] = [1000, 24, 10];
const MAP = "metrics/mAP50-95(B)";
/** Figures that come first in the table. */
const FIGURES = [MAP, "metrics/mAP50(B)", "metrics/precision(B)", "metrics/recall(B)"];

/** Whether less of a figure is better. @param {string} name */
const isLess = (name) => name.includes("loss");
/** What a figure is called: `mAP50-95`, `val/box_loss`. @param {string} name */
const named = (name) => name.replace(/^(metrics|speed)\//, "").replace("(B)", "");
const ids = (/** @type {string | null} */ text) => (text || "").split(",").filter(Boolean);

/** The jobs to compare, as they are. @param {string[]} wanted @param {string} sweep */
function useJobs(wanted, sweep) {
  const [jobs, setJobs] = useState(/** @type {any[] | null} */ (null));
  const [found, setFound] = useState(/** @type {any} */ (null));
  const [problems, setProblems] = useState(/** @type {string[]} */ ([]));
  const key = sweep || wanted.join();
  useEffect(() => {
    const stop = new AbortController();
    const read = async () => {
      /** @type {string[]} */
      const wrong = [];
      const lacks = (/** @type {any} */ cause) => void (stop.signal.aborted || wrong.push(cause.message));
      let all;
      if (sweep) {
        const axes = await call("JobService/GetSweep", { sweepId: sweep }, { signal: stop.signal }).catch(lacks);
        all = axes ? await callAll("JobService/ListJobs", { sweepId: sweep }, "jobs", MOST).catch(lacks) : [];
        if (!stop.signal.aborted) setFound(axes);
      } else {
        all = await Promise.all(wanted.map((jobId) => call("JobService/GetJob", { jobId }, { signal: stop.signal }).catch(lacks)));
      }
      if (stop.signal.aborted) return;
      // Two starts of one id are one job.
      setJobs([...new Map((all || []).filter(Boolean).map((job) => [job.id, job])).values()]);
      setProblems(wrong);
    };
    read();
    const end = onJobs(({ jobs: changed, jobsMissed }) => {
      if (jobsMissed) return void read();
      const news = new Map(changed.map((job) => [job.id, job]));
      setJobs((known) => (known?.some((job) => news.has(job.id)) ? known.map((job) => news.get(job.id) || job) : known));
    });
    return () => {
      stop.abort();
      end();
    };
  }, [key]);
  return { jobs, sweep: found, problems };
}

/** @param {{ query: URLSearchParams }} props */
export function Compare({ query }) {
  const sweep = query.get("sweep") || "";
  const wanted = [...new Set(ids(query.get("jobs")))].slice(0, CURVES);
  if (!sweep && !wanted.length) return html`<div class="head"><h1>Compare</h1></div><${Picker} />`;
  return html`<${Comparison} key=${sweep} query=${query} wanted=${wanted} sweepId=${sweep} />`;
}

/** @typedef {import("./sort_table.js").Row & { job: any }} JobRow */

/** @param {any[]} jobs @param {string[]} differ @param {string[]} figures @returns {JobRow[]} */
function rows(jobs, differ, figures) {
  return jobs.map((job) => {
    const [own, metrics] = [settings(job.spec), job.progress?.metrics || {}];
    const took = job.startTime && ((job.endTime ? Date.parse(job.endTime) : now()) - Date.parse(job.startTime)) / 1000;
    const setting = (/** @type {string} */ name) => {
      const text = own.get(name) ?? "";
      return text === "" || Number.isNaN(Number(text)) ? text : { value: Number(text), view: () => text };
    };
    const cells = [jobName(job), job.state, ...differ.map(setting), { value: took || undefined, view: () => (took ? span(took) : "–") }, ...figures.map((name) => metrics[name])];
    return { key: job.id, job, cells };
  });
}

/** @param {{ query: URLSearchParams, wanted: string[], sweepId: string }} props */
function Comparison({ query, wanted, sweepId }) {
  const { jobs, sweep, problems } = useJobs(wanted, sweepId);
  const all = jobs || [];
  const sort = query.get("sort") || `-${MAP}`;
  const metric = query.get("metric") || MAP;
  const differ = useMemo(() => differing(all.map((job) => settings(job.spec))).filter((name) => name !== "name"), [all.map((job) => job.id).join()]);
  const figures = useMemo(() => {
    const found = new Set(all.flatMap((job) => Object.keys(job.progress?.metrics || {})).filter((name) => !ofClass(name) && !name.startsWith("lr/")));
    return [...FIGURES.filter((name) => found.has(name)), ...[...found].filter((name) => !FIGURES.includes(name)).sort()];
  }, [jobs]);
  const heads = ["job", "state", ...differ, "took", ...figures];
  const lines = rows(all, differ, figures);
  const ranked = sorted(lines, heads, `${isLess(metric) ? "" : "-"}${metric}`);
  const best = /** @type {JobRow[]} */ (ranked).find((row) => row.job.progress?.metrics?.[metric] !== undefined)?.job;
  // Who leads changes as they train; whose curves are shown does not.
  const first = useMemo(() => (sweepId ? ranked.slice(0, FIRST) : lines).map((row) => row.key), [all.length, metric]);
  const chosen = query.has("show") ? ids(query.get("show")).filter((id) => id !== "none") : first;
  const shown = all.filter((job) => chosen.includes(job.id)).slice(0, CURVES);
  const { kept, version } = useEvents(shown.map((job) => job.id));
  const toggle = (/** @type {string} */ id) => {
    const next = chosen.includes(id) ? chosen.filter((one) => one !== id) : [...chosen, id].slice(-CURVES);
    setQuery({ show: next.join() || "none" });
  };
  const names = new Set([...figures, ...[...kept.values()].flatMap((one) => [...one.curves.all.keys()])]);
  // A job keeps its colour whatever is shown beside it; in a sweep those that are shown have colours of their own.
  const place = (/** @type {string} */ id) => (sweepId ? shown : all).findIndex((job) => job.id === id);
  if (!jobs) return html`<div class="head"><h1>Compare</h1></div>`;
  const { axis, ...rest } = look(query);
  const charted = (sweepId ? shown : all).map((job) => {
    const curves = kept.get(job.id)?.curves;
    return { key: job.id, label: sweepId ? label(job, sweep) : jobName(job), curve: curves?.curve(metric, axis) || null, since: curves?.since || 0, color: place(job.id) };
  });
  const view = (/** @type {any} */ row) => ({
    key: row.key,
    cells: [
      { value: jobName(row.job), view: () => html`<${Name} job=${row.job} isShown=${chosen.includes(row.key)} color=${place(row.key)} onToggle=${toggle} isSweep=${!!sweepId} wanted=${wanted} />` },
      { value: row.job.state, view: () => html`<${JobPill} state=${row.job.state} />` },
      ...row.cells.slice(2),
    ],
  });
  return html`
    <div class="head">
      <h1>${sweepId ? sweep?.spec?.name || "Sweep" : "Compare"}</h1>
      <span class="muted">${count(all.length, "job")}${sweepId && sweep ? ` · ${sweep.user}` : ""}</span>
      <span class="grow"></span>
      ${best && html`<span class="muted">best ${named(metric)}: <${Link} to=${`/jobs/${best.id}`}>${jobName(best)} ${sweepId ? label(best, sweep) : ""}<//></span>
        <${Link} class="button" to=${`/new?from=${best.id}`}>Clone the best<//>`}
    </div>
    ${problems.map((text) => html`<p class="notice" role="alert" key=${text}>${text}</p>`)}
    ${all.length > 0 && html`
      <${Controls} query=${query}>
        <label>Figure <select value=${metric} onChange=${(/** @type {any} */ event) => setQuery({ metric: event.target.value === MAP ? "" : event.target.value, range: "" })}>
          ${[...names].map((name) => html`<option key=${name} value=${name} selected=${name === metric}>${named(name)}</option>`)}
          ${!names.has(metric) && html`<option value=${metric} selected>${named(metric)}</option>`}
        </select></label>
      <//>
      <${Chart} title=${named(metric)} lines=${charted} hidden=${all.map((job) => job.id).filter((id) => !chosen.includes(id))} onToggle=${toggle}
        axis=${axis} ...${rest} onRange=${setRange} group="compare" version=${version} height=${320} />
      ${sweepId && sweep && html`<${Parallel} jobs=${all} axes=${sweep.axes || []} metric=${metric} name=${named(metric)} isLess=${isLess(metric)} best=${best?.id} />`}
      <section class="panel" aria-labelledby="table"><header><h2 id="table">Settings that differ, and figures</h2></header>
        <${SortTable} label="Jobs" heads=${heads} names=${Object.fromEntries(figures.map((name) => [name, named(name)]))} rows=${lines.map(view)} sort=${sort} marked=${best?.id}
          onSort=${(/** @type {string} */ next) => setQuery({ sort: next === `-${MAP}` ? "" : next })} />
      </section>`}
  `;
}

/** What makes a job of a sweep another one. @param {any} job @param {any} sweep */
function label(job, sweep) {
  const own = settings(job.spec);
  return (sweep?.axes || []).map((/** @type {any} */ one) => `${one.parameter} ${own.get(snake(one.parameter)) ?? ""}`).join(", ");
}

/** @param {{ job: any, isShown: boolean, color: number, onToggle: (id: string) => void, isSweep: boolean, wanted: string[] }} props */
function Name({ job, isShown, color: at, onToggle, isSweep, wanted }) {
  const name = jobName(job);
  const others = wanted.filter((id) => !job.id.startsWith(id));
  return html`<span class="row-name">
    <input type="checkbox" checked=${isShown} onChange=${() => onToggle(job.id)} aria-label=${`Curve of ${name}`} />
    <i class="dot" style=${{ background: at < 0 || !isShown ? "var(--track)" : color(at) }} aria-hidden="true"></i>
    <${Link} to=${`/jobs/${job.id}`} title=${name}>${name}<//>
    ${!isSweep && wanted.length > 1 && html`<button type="button" class="plain" aria-label=${`Remove ${name}`} onClick=${() => setQuery({ jobs: others.join(), show: "" })}>×</button>`}
  </span>`;
}
