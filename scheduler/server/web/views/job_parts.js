// @ts-check
/** What several views say of a job. */
import { Link } from "../router.js";
import { shortId } from "../units.js";
import { html } from "../vendor/preact.js";

/** @type {Record<string, string>} */
const TONES = { STARTING: "accent", RUNNING: "accent", SUCCEEDED: "good", FAILED: "bad" };

/** Its state, in colour. @param {{ state: string }} props */
export function JobPill({ state }) {
  return html`<span class=${`pill ${TONES[state] || "calm"}`}>${state.toLowerCase()}</span>`;
}

/** What people call it. @param {any} job @returns {string} */
export function jobName(job) {
  return job.spec?.name || shortId(job.id);
}

/** Leads to a job. @param {{ job: any }} props */
export function JobLink({ job }) {
  return html`<${Link} to=${`/jobs/${job.id}`} class="job">${jobName(job)}<//>`;
}

/** Whether nothing more happens to it. @param {any} job */
export function isOver(job) {
  return job.state === "SUCCEEDED" || job.state === "FAILED" || job.state === "CANCELLED";
}

/** Whether somebody may change it. @param {any} caller @param {any} job */
export function mayChange(caller, job) {
  return !caller.role || caller.role === "ADMIN" || (caller.role === "USER" && caller.user === job.user);
}

/** What share of a job's epochs is done. @param {any} progress */
export function share(progress) {
  if (!progress?.epochs) return 0;
  const batches = progress.batches ? (progress.batch || 0) / progress.batches : 0;
  return Math.min(1, ((progress.epoch || 1) - 1 + batches) / progress.epochs);
}

export const ACCURACY = "metrics/mAP50-95(B)";

/** Its newest mAP50-95. @param {any} job */
export function accuracy(job) {
  const value = job.progress?.metrics?.[ACCURACY];
  return value === undefined ? "–" : value.toFixed(3);
}

/** Seconds between two times; undefined where one is missing. @param {string | undefined} from @param {string | number | undefined} to */
export function between(from, to) {
  return from && to ? (new Date(to).getTime() - Date.parse(from)) / 1000 : undefined;
}
