// @ts-check
/** What waits, in the order in which it will start, what runs, and what is over. */
import { call } from "../api.js";
import { attempt } from "../layout.js";
import { Link, go } from "../router.js";
import { now as time } from "../time.js";
import { percent, seconds, span } from "../units.js";
import { html, useEffect, useMemo, useState } from "../vendor/preact.js";
import { confirm } from "./confirm.js";
import { GOES_ON, OVER, prioritise, useJobsThatAreOver, useJobsThatGoOn } from "./job_lists.js";
import { isOver, jobName, mayChange } from "./job_parts.js";
import { Finished, Running, Waiting } from "./job_rows.js";

/** Jobs that are over, a page. */
const PAGE = 50;
/** Waiting jobs that are drawn before somebody asks for more. */
const DRAWN = 2000;
/** Milliseconds until shares are asked for, and asked for anew. */
const [SHARES_SOON, SHARES_AGAIN] = [500, 30000];
/** Jobs that one can compare at once. */
const COMPARED = 16;

/** What one filters by. @type {Record<string, string[]>} */
const STATES = {
  "": [...GOES_ON, ...OVER],
  waiting: ["QUEUED"],
  running: ["STARTING", "RUNNING"],
  succeeded: ["SUCCEEDED"],
  failed: ["FAILED"],
  cancelled: ["CANCELLED"],
};

/** The waiting jobs as they will start; those of which that is not known come last. @param {any} one @param {any} other */
function starts(one, other) {
  const time = (/** @type {any} */ job) => Date.parse(job.estimatedStartTime || "") || Infinity;
  const [first, second] = [time(one), time(other)];
  if (first !== second) return first - second;
  return (one.queuePosition || Infinity) - (other.queuePosition || Infinity) || (one.id < other.id ? -1 : 1);
}

/** Changes a part of the address. @param {URLSearchParams} query @param {Record<string, string>} parts */
function put(query, parts) {
  const next = new URLSearchParams(query);
  for (const [name, value] of Object.entries(parts)) {
    if (value) next.set(name, value);
    else next.delete(name);
  }
  const text = next.toString();
  go(`/jobs${text ? `?${text}` : ""}`, { replace: true });
}

/** Now, or nearly, for what is told relative to it. */
function useNow() {
  const [now, setNow] = useState(time);
  useEffect(() => {
    const timer = setInterval(() => setNow(time()), 30000);
    return () => clearInterval(timer);
  }, []);
  return now;
}

/** @param {any[]} jobs */
const cancel = (jobs) =>
  attempt(async () => {
    const which = jobs.length === 1 ? jobName(jobs[0]) : `${jobs.length} jobs`;
    if (!(await confirm(`Cancel ${which}?`, "Cancel it"))) return;
    for (const job of jobs) await call("JobService/CancelJob", { jobId: job.id });
  });

/** @param {any} job */
const retry = (job) => attempt(() => call("JobService/RetryJob", { jobId: job.id }));

/** @param {{ query: URLSearchParams, caller: any }} props */
export function Queue({ query, caller }) {
  const state = query.get("state") || "";
  const user = query.get("user") || "";
  const text = (query.get("text") || "").trim();
  const wanted = STATES[state] || STATES[""];
  const fits = useMemo(() => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    return (/** @type {any} */ job) => {
      if (!wanted.includes(job.state) || (user && job.user !== user)) return false;
      const { name = "", train = {}, labels = {} } = job.spec || {};
      const all = [name, job.id, job.user, train.model, train.data, ...Object.entries(labels).map((pair) => pair.join("="))];
      const searched = words.length ? all.join("\n").toLowerCase() : "";
      return words.every((word) => searched.includes(word));
    };
  }, [state, user, text]);
  const all = useJobsThatGoOn(GOES_ON);
  const over = useJobsThatAreOver({ states: wanted.filter((one) => OVER.includes(one)), user, fits, isSearch: !!text, page: PAGE });
  const [chosen, setChosen] = useState(/** @type {Map<string, any>} */ (new Map()));
  const [most, setMost] = useState(DRAWN);
  const now = useNow();

  const known = useMemo(() => [...(all?.values() || [])], [all]);
  const shown = useMemo(() => known.filter(fits), [known, fits]);
  const waiting = useMemo(() => shown.filter((job) => job.state === "QUEUED").sort(starts), [shown]);
  const running = useMemo(() => shown.filter((job) => job.state !== "QUEUED").sort((one, other) => (one.id < other.id ? 1 : -1)), [shown]);
  const finished = useMemo(() => over.jobs.filter(fits), [over.jobs, fits]);

  const deed = useMemo(
    () => ({
      choose: (/** @type {any} */ job) =>
        setChosen((/** @type {Map<string, any>} */ before) => {
          const next = new Map(before);
          if (!next.delete(job.id)) next.set(job.id, job);
          return next;
        }),
      cancel: (/** @type {any} */ job) => cancel([job]),
      prioritise,
      retry,
      may: (/** @type {any} */ job) => mayChange(caller, job),
      submits: caller.role !== "VIEWER",
    }),
    [caller],
  );
  const rows = { now, chosen, deed };
  return html`
    <div class="head">
      <h1>Queue</h1>
      <${Filters} query=${query} state=${state} user=${user} users=${[...new Set(known.map((job) => job.user))].sort()} />
    </div>
    <${Users} jobs=${known} user=${user} query=${query} />
    ${chosen.size > 0 && html`<${Chosen} chosen=${chosen} all=${all} deed=${deed} onClear=${() => setChosen(new Map())} />`}
    ${wanted.includes("RUNNING") &&
    html`<${Part} name="Running" count=${running.length} empty=${all ? "Nothing runs." : ""}>
      <${Running} jobs=${running} ...${rows} />
    <//>`}
    ${wanted.includes("QUEUED") &&
    html`<${Part} name="Waiting" count=${waiting.length} empty=${all ? "Nothing waits." : ""}>
      <${Waiting} jobs=${waiting.slice(0, most)} ...${rows} />
      ${waiting.length > most &&
      html`<p class="more"><button type="button" onClick=${() => setMost(most + DRAWN)}>Show ${Math.min(DRAWN, waiting.length - most)} more</button></p>`}
    <//>`}
    ${wanted.some((one) => OVER.includes(one)) &&
    html`<${Part} name="Finished" count=${over.next ? undefined : finished.length} empty=${over.isBusy ? "" : "Nothing has finished."}>
      <${Finished} jobs=${finished} ...${rows} />
      ${over.next && html`<p class="more"><button type="button" disabled=${over.isBusy} onClick=${over.more}>Show more</button></p>`}
    <//>`}
  `;
}

/** @param {{ name: string, count?: number, empty: string, children: any }} props */
function Part({ name, count, empty, children }) {
  return html`<section class="jobs" aria-labelledby=${`of-${name}`}>
    <h2 id=${`of-${name}`}>${name} ${count !== undefined && html`<span class="muted">${count}</span>`}</h2>
    ${count === 0 ? html`<p class="muted">${empty}</p>` : children}
  </section>`;
}

/** @param {{ query: URLSearchParams, state: string, user: string, users: string[] }} props */
function Filters({ query, state, user, users }) {
  const people = user && !users.includes(user) ? [user, ...users] : users;
  const change = (/** @type {string} */ name) => (/** @type {any} */ event) => put(query, { [name]: event.currentTarget.value });
  return html`<form class="filters" role="search" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
    <select aria-label="State" value=${state} onChange=${change("state")}>
      ${Object.keys(STATES).map((name) => html`<option key=${name} value=${name} selected=${name === state}>${name || "all states"}</option>`)}
    </select>
    <select aria-label="User" value=${user} onChange=${change("user")}>
      ${["", ...people].map((name) => html`<option key=${name} value=${name} selected=${name === user}>${name || "all users"}</option>`)}
    </select>
    <input type="search" aria-label="Text" placeholder="Name, id, data, label…" value=${query.get("text") || ""} onInput=${change("text")} />
  </form>`;
}

/** What each user has had of late, asked for anew when who runs and waits changes, and now and then. @param {string} key */
function useShares(key) {
  const [shares, setShares] = useState(/** @type {any[]} */ ([]));
  useEffect(() => {
    const stop = new AbortController();
    // What is known stays where it cannot be asked.
    const read = () => call("JobService/ListUserShares", {}, stop).then(({ users = [] }) => setShares(users), () => {});
    const soon = setTimeout(read, SHARES_SOON);
    const timer = setInterval(read, SHARES_AGAIN);
    return () => {
      stop.abort();
      clearTimeout(soon);
      clearInterval(timer);
    };
  }, [key]);
  return shares;
}

/** Who has how much, and has had how much of late. @param {{ jobs: any[], user: string, query: URLSearchParams }} props */
function Users({ jobs, user, query }) {
  /** @type {Map<string, { running: number, waiting: number }>} */
  const counts = new Map();
  for (const job of jobs) {
    const count = counts.get(job.user) || { running: 0, waiting: 0 };
    count[job.state === "QUEUED" ? "waiting" : "running"] += 1;
    counts.set(job.user, count);
  }
  const shares = useShares(JSON.stringify([...counts]));
  for (const share of shares) if (share.share && !counts.has(share.user)) counts.set(share.user, { running: 0, waiting: 0 });
  if (!counts.size) return null;
  const had = new Map(shares.map((share) => [share.user, share]));
  const part = (/** @type {string} */ name) => had.get(name)?.share || 0;
  const sorted = [...counts].sort(([one, a], [other, b]) => part(other) - part(one) || b.running - a.running || b.waiting - a.waiting || one.localeCompare(other));
  return html`<ul class="users" aria-label="Who has how much">
    ${sorted.map(
      ([name, { running, waiting }]) => html`<li key=${name}>
        <button type="button" aria-pressed=${name === user} onClick=${() => put(query, { user: name === user ? "" : name })}>
          <b>${name}</b>
          <span><b>${running}</b> running</span><span><b>${waiting}</b> waiting</span>
          ${had.has(name) && html`<span title=${`GPU-time of late, ${percent(part(name))} of all`}><b>${span(seconds(had.get(name).gpuTime) || 0)}</b> of late</span>`}
          <i class="portion" aria-hidden="true"><i style=${{ width: `${100 * part(name)}%` }}></i></i>
        </button>
      </li>`,
    )}
  </ul>`;
}

/** What one does with several jobs at once. @param {{ chosen: Map<string, any>, all: any, deed: any, onClear: () => void }} props */
function Chosen({ chosen, all, deed, onClear }) {
  const jobs = [...chosen.values()].map((job) => all?.get(job.id) || job);
  const going = jobs.filter((job) => !isOver(job) && all?.has(job.id) && deed.may(job));
  return html`<div class="chosen" role="region" aria-label="Chosen jobs">
    <b>${jobs.length}</b> chosen
    <span class="grow"></span>
    ${jobs.length <= COMPARED && html`<${Link} to=${`/compare?jobs=${jobs.map((job) => job.id).join(",")}`} class="button">Compare<//>`}
    ${going.length > 0 && html`<button type="button" onClick=${() => cancel(going)}>Cancel ${going.length}</button>`}
    <button type="button" class="plain" onClick=${onClear}>Choose none</button>
  </div>`;
}
