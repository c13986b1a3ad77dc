// @ts-check
/** The page's one stream: machines as they are, jobs as they change, events of the jobs that are looked at. */
import { ApiError, call } from "./api.js";
import { useEffect, useState } from "./vendor/preact.js";

/**
 * @typedef {{ jobs: any[], removedJobIds: string[], jobsMissed: boolean }} JobChanges
 * @typedef {{ jobId: string, jobEvents: any[] }} JobEvents
 */

/** Milliseconds between two tries, and the most. */
const RETRY = 1000;
const RETRY_MOST = 10000;
/** A stream that has said nothing for so long is made anew when somebody looks at the page again. */
const SILENCE = 60000;

/** @type {EventSource | null} */
let source = null;
/** Where the cluster's changes are. */
let cursor = "";
let lastHeard = 0;
let tries = 0;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let retry;
/** The jobs that are looked at, and where their events are. @type {Map<string, { listener: (events: any[]) => void, cursor: string }>} */
const looked = new Map();
/** @type {Map<string, any>} */
let agents = new Map();
/** @typedef {"connecting" | "live" | "away"} LinkState */

/** `why`: what the scheduler says where it tells nothing. @type {{ state: LinkState, why: ApiError | null }} */
let link = { state: "connecting", why: null };

/** @type {Set<() => void>} */
const watchers = new Set();
/** @type {Set<(changes: JobChanges) => void>} */
const jobListeners = new Set();

function changed() {
  for (const watcher of watchers) watcher();
}

/** @param {LinkState} state @param {ApiError | null} [why] */
function setLink(state, why = null) {
  if (link.state === state && link.why?.message === why?.message) return;
  link = { state, why };
  changed();
}

function address() {
  const query = new URLSearchParams();
  for (const job of looked.keys()) query.append("job", job);
  // A stream is taken up where the one before it ended, also one with other jobs.
  const last = [cursor, ...[...looked.values()].map((job) => job.cursor)].join(";");
  if (/[^;0]/.test(last)) query.set("last", last);
  const text = query.toString();
  return text ? `/live?${text}` : "/live";
}

function open() {
  clearTimeout(retry);
  source?.close();
  const own = new EventSource(address());
  source = own;
  own.onopen = () => {
    tries = 0;
    lastHeard = Date.now();
  };
  own.onmessage = (event) => {
    if (own !== source) return;
    lastHeard = Date.now();
    take(JSON.parse(event.data));
    setLink("live");
  };
  own.addEventListener("end", (event) => again(own, JSON.parse(/** @type {MessageEvent} */ (event).data).error));
  own.onerror = () => again(own);
}

/** Tries again in a while; a browser would not where the scheduler has refused. @param {EventSource} own @param {any} [error] */
function again(own, error) {
  if (own !== source) return;
  own.close();
  source = null;
  // What was said counts until something else is.
  setLink("away", error ? new ApiError(0, error) : link.why);
  const wait = Math.min(RETRY * 2 ** tries, RETRY_MOST) * (0.75 + Math.random() / 2);
  tries += 1;
  retry = setTimeout(async () => {
    try {
      // A stream that is refused does not say why. Whoever is not known any more is asked to log in.
      await call("ClusterService/ListAgents", { pageSize: 1 });
    } catch (cause) {
      if (cause instanceof ApiError && cause.needsLogin) return stop();
      if (cause instanceof ApiError) setLink("away", cause);
    }
    open();
  }, wait);
}

/** @param {any} event */
function take(event) {
  if (event.jobId) {
    const job = looked.get(event.jobId);
    if (!job || !event.jobEvents?.length) return;
    job.cursor = event.jobEvents.at(-1).cursor;
    job.listener(event.jobEvents);
    return;
  }
  cursor = event.cursor;
  const next = event.allAgents ? new Map() : new Map(agents);
  for (const id of event.removedAgentIds || []) next.delete(id);
  for (const agent of event.agents || []) next.set(agent.id, agent);
  agents = next;
  if (event.jobs || event.removedJobIds || event.jobsMissed) {
    const { jobs = [], removedJobIds = [], jobsMissed = false } = event;
    for (const listener of jobListeners) listener({ jobs, removedJobIds, jobsMissed });
  }
  changed();
}

/** Begins to follow the cluster. */
export function start() {
  if (!source) open();
}

/** Forgets everything, as after logging out. */
export function stop() {
  clearTimeout(retry);
  source?.close();
  source = null;
  [cursor, tries, agents] = ["", 0, new Map()];
  setLink("connecting");
}

/** After an order, whoever gave another one meanwhile must not be overlooked: two within a second are none to the stream. */
const SETTLED = 1500;

/** Shows the answer to a call that changed a machine at once. @param {any} agent */
export function put(agent) {
  const show = (/** @type {any} */ one) => {
    agents = new Map(agents).set(one.id, one);
    changed();
  };
  show(agent);
  setTimeout(async () => {
    // What cannot be asked now comes by the stream, which is then made anew.
    const now = await call("ClusterService/GetAgent", { agent: agent.id }).catch(() => null);
    if (now && agents.has(now.id)) show(now);
  }, SETTLED);
}

/** The machines by id, and how the connection is; draws anew when they change. */
export function useCluster() {
  const [, draw] = useState(0);
  useEffect(() => {
    const watcher = () => draw((/** @type {number} */ count) => count + 1);
    watchers.add(watcher);
    watcher();
    return () => watchers.delete(watcher);
  }, []);
  return { agents, link };
}

/**
 * Is told of all jobs that change. `jobsMissed` means: list anew what you show.
 * @param {(changes: JobChanges) => void} listener @returns {() => void} Ends it.
 */
export function onJobs(listener) {
  jobListeners.add(listener);
  return () => void jobListeners.delete(listener);
}

/**
 * Follows a job's events from the first on, each once; one listener a job. The id must be whole.
 * @param {string} job @param {(events: any[]) => void} listener @returns {() => void} Ends it.
 */
export function watchJob(job, listener) {
  const own = { listener, cursor: "0" };
  looked.set(job, own);
  renew();
  return () => {
    if (looked.get(job) === own) looked.delete(job);
    renew();
  };
}

let isRenewing = false;
/** Several changes of what is looked at make one new stream. */
function renew() {
  if (isRenewing) return;
  isRenewing = true;
  queueMicrotask(() => {
    isRenewing = false;
    if (source) open();
  });
}

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && source && Date.now() - lastHeard > SILENCE) open();
});
addEventListener("online", () => {
  if (source) open();
});
