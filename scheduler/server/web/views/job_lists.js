// @ts-check
/** Lists of jobs that follow the cluster. */
import { call, callAll } from "../api.js";
import { attempt } from "../layout.js";
import { onJobs } from "../live.js";
import { useEffect, useRef, useState } from "../vendor/preact.js";
import { askNumber } from "./confirm.js";
import { ACCURACY, jobName } from "./job_parts.js";

export const RUNS = ["STARTING", "RUNNING"];
export const GOES_ON = ["QUEUED", ...RUNS];
export const OVER = ["SUCCEEDED", "FAILED", "CANCELLED"];

/** Milliseconds after which what was said of waiting jobs is asked for anew, for each of them, and at least. */
const [AGAIN_EACH, AGAIN_LEAST] = [60, 5000];
/** Jobs of a page that are searched for a text. */
const SEARCHED = 500;
/** Pages that one click searches. */
const SEARCHES = 4;
/** What a page that stays open collects before it begins anew. */
const MOST = 2000;

/**
 * The jobs in such states, by id; undefined until they are known. Where they stand in the queue changes with other
 * jobs, of which the stream does not tell: where some wait, they are listed anew a while after something has changed.
 * @param {string[]} states @returns {Map<string, any> | undefined}
 */
export function useJobsThatGoOn(states) {
  const [jobs, setJobs] = useState(/** @type {Map<string, any> | undefined} */ (undefined));
  useEffect(() => {
    /** @type {Map<string, any>} */
    let known = new Map();
    /** What the stream says while a list is on its way. @type {Map<string, any> | null} */
    let meanwhile = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    let [isOpen, isDue] = [true, false];
    const isQueue = states.includes("QUEUED");
    const take = (/** @type {Map<string, any>} */ changes) => {
      known = new Map(known);
      for (const [id, job] of changes) {
        if (job && states.includes(job.state)) known.set(id, slim(job));
        else known.delete(id);
      }
      setJobs(known);
    };
    const list = async () => {
      clearTimeout(timer);
      [timer, isDue] = [undefined, false];
      const changes = (meanwhile = new Map());
      // That the scheduler is away is told elsewhere.
      const all = await callAll("JobService/ListJobs", { states }, "jobs").catch(() => null);
      if (!isOpen || meanwhile !== changes) return;
      meanwhile = null;
      if (!all) return again();
      known = new Map(all.map((/** @type {any} */ job) => [job.id, same(known.get(job.id), slim(job))]));
      take(changes);
      if (isDue) again();
    };
    const again = () => {
      isDue = true;
      if (timer || meanwhile || document.hidden) return;
      timer = setTimeout(list, Math.max(AGAIN_LEAST, AGAIN_EACH * known.size));
    };
    const shown = () => isDue && again();
    document.addEventListener("visibilitychange", shown);
    // Estimates go with the time, also where nothing else does.
    const clock = isQueue ? setInterval(again, 60000) : undefined;
    list();
    const end = onJobs(({ jobs: changed, removedJobIds, jobsMissed }) => {
      if (jobsMissed) return void list();
      const changes = new Map(changed.map((job) => [job.id, job]));
      for (const id of removedJobIds) changes.set(id, null);
      for (const [id, job] of changes) meanwhile?.set(id, job);
      const moves = changed.some((job) => known.get(job.id)?.state !== job.state);
      take(changes);
      if (isQueue && (moves || removedJobIds.length)) again();
    });
    return () => {
      isOpen = false;
      end();
      clearTimeout(timer);
      clearInterval(clock);
      document.removeEventListener("visibilitychange", shown);
    };
  }, []);
  return jobs;
}

/** Gives a waiting job another priority, if somebody says which; the job as it is then. @param {any} job @returns {Promise<any>} */
export const prioritise = (job) =>
  attempt(async () => {
    const priority = await askNumber(`Priority of ${jobName(job)}`, "Set it", job.spec?.priority || 0, [-100, 100]);
    return priority === null ? undefined : call("JobService/SetJobPriority", { jobId: job.id, priority });
  });

/** Without the figures of each class, of which there may be hundreds. @param {any} job */
function slim(job) {
  const { metrics } = job.progress || {};
  return metrics ? { ...job, progress: { ...job.progress, metrics: { [ACCURACY]: metrics[ACCURACY] } } } : job;
}

/** The job as it was known where nothing has changed, so that its row is not drawn anew. @param {any} old @param {any} job */
function same(old, job) {
  return old && JSON.stringify(old) === JSON.stringify(job) ? old : job;
}

/**
 * Jobs that are over, the newest first, a page at a time.
 * @param {{ states: string[], user: string, fits: (job: any) => boolean, isSearch: boolean, page: number }} asked
 */
export function useJobsThatAreOver({ states, user, fits, isSearch, page }) {
  const [found, setFound] = useState({ jobs: /** @type {any[]} */ ([]), next: "", isBusy: true });
  const listing = useRef(0);
  const test = useRef(fits);
  test.current = fits;
  const key = JSON.stringify([states, user]);

  /** Lists until there are so many more that fit. @param {any[]} before @param {string} next @param {number} count */
  const more = async (before, next, count) => {
    const own = ++listing.current;
    setFound({ jobs: before, next, isBusy: true });
    let jobs = before;
    for (let calls = 0; states.length && calls < SEARCHES; calls += 1) {
      const message = { states, user, pageSize: isSearch ? SEARCHED : count, pageToken: next };
      const answer = await attempt(() => call("JobService/ListJobs", message));
      if (own !== listing.current) return;
      if (!answer) break;
      jobs = [...jobs, ...(answer.jobs || []).map(slim)];
      next = answer.nextPageToken || "";
      if (!next || jobs.filter(test.current).length >= before.filter(test.current).length + count) break;
    }
    setFound({ jobs, next, isBusy: false });
  };

  useEffect(() => {
    more([], "", page);
    const wanted = new Set(states);
    return onJobs(({ jobs: changed, removedJobIds, jobsMissed }) => {
      if (jobsMissed) return void more([], "", page);
      const gone = new Set([...removedJobIds, ...changed.map((job) => job.id)]);
      const came = changed.filter((job) => wanted.has(job.state) && (!user || job.user === user)).map(slim);
      setFound((/** @type {any} */ known) => {
        const jobs = known.jobs.filter((/** @type {any} */ job) => !gone.has(job.id));
        if (jobs.length === known.jobs.length && !came.length) return known;
        // What is older than all that is listed comes with a later page.
        const oldest = known.next ? jobs.at(-1)?.id || "" : "";
        const all = [...jobs, ...came.filter((job) => job.id > oldest)];
        if (all.length > MOST && all.length > known.jobs.length) setTimeout(() => more([], "", page));
        return { ...known, jobs: all.sort((one, other) => (one.id < other.id ? 1 : -1)) };
      });
    });
  }, [key, isSearch]);
  return { ...found, more: () => more(found.jobs, found.next, page) };
}
