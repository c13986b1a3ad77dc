// @ts-check
/** What is kept of jobs' events while a page shows them: curves and the end of the log, both bounded. */
import { call } from "../api.js";
import { watchJob } from "../live.js";
import { now } from "../time.js";
import { useEffect, useMemo, useState } from "../vendor/preact.js";
import { Curve, Curves } from "./curves.js";
import { isOver } from "./job_parts.js";

/** Lines of the log that a page keeps. */
const LINES = 1000;
/** Milliseconds between two drawings. */
const DRAW = 400;
/** Milliseconds between two looks at what a GPU has done, and while the job's figures are on their way: so often. */
const [LOOK, SOON, TRIES] = [20000, 2000, 30];
/** Milliseconds of an attempt above which minutes do. */
const LONG = 7200000;
const PAGES = 12;
const SPEED = "speed/images a second";

/** @typedef {{ cursor: string, time: string, tone: string, text: string }} LogLine */

/** A line of the log, if an event is one. @param {any} event @returns {LogLine | null} */
function lineOf({ cursor, time, stateChange, logLine }) {
  if (logLine) return { cursor, time, tone: { WARNING: "warn", ERROR: "bad" }[/** @type {"ERROR"} */ (logLine.level)] || "", text: logLine.message || "" };
  if (!stateChange) return null;
  const reason = stateChange.reason ? `: ${stateChange.reason}` : "";
  return { cursor, time, tone: "state", text: `${stateChange.state.toLowerCase()}${reason}` };
}

/** What was kept of one job. */
class Kept {
  curves = new Curves();
  /** @type {LogLine[]} */
  lines = [];

  /** @param {any[]} events */
  take(events) {
    for (const event of events) {
      this.curves.add(event);
      const line = lineOf(event);
      if (line) this.lines.push(line);
    }
    if (this.lines.length > 1.5 * LINES) this.lines = this.lines.slice(-LINES);
  }
}

/**
 * Follows jobs from their first event on; `version` grows when anything has come.
 * @param {string[]} ids @returns {{ kept: Map<string, Kept>, version: number }}
 */
export function useEvents(ids) {
  const [version, setVersion] = useState(0);
  /** @type {{ kept: Map<string, Kept>, ends: Map<string, () => void>, timer: any }} */
  const own = useMemo(() => ({ kept: new Map(), ends: new Map(), timer: undefined }), []);
  useEffect(() => {
    for (const [id, end] of own.ends) {
      if (ids.includes(id)) continue;
      end();
      own.ends.delete(id);
      own.kept.delete(id);
    }
    for (const id of ids.filter((one) => !own.ends.has(one))) {
      const kept = new Kept();
      own.kept.set(id, kept);
      own.ends.set(id, watchJob(id, (events) => {
        kept.take(events);
        own.timer ??= setTimeout(() => {
          own.timer = undefined;
          setVersion((count) => count + 1);
        }, DRAW);
      }));
    }
  }, [ids.join()]);
  useEffect(() => () => {
    clearTimeout(own.timer);
    for (const end of own.ends.values()) end();
  }, []);
  return { kept: own.kept, version };
}

/**
 * How busy a job's GPUs were, attempt after attempt, over the epochs and steps that its figures came at.
 * @param {any} job @param {Curves | undefined} curves @returns {Curve}
 */
export function useUtilization(job, curves) {
  const curve = useMemo(() => new Curve(), [curves]);
  const [, setCount] = useState(0);
  const attempts = (job.attempts || []).filter((/** @type {any} */ one) => one.gpuUuid && one.startTime);
  const isKnown = !!curves?.since;
  const key = `${isKnown} ${attempts.length} ${attempts.at(-1)?.endTime} ${job.state}`;
  useEffect(() => {
    if (!isKnown || !attempts.length) return undefined;
    const stop = new AbortController();
    let [newest, tries] = [curve.newest?.time || 0, 0];
    /** @type {ReturnType<typeof setTimeout>} */
    let timer;
    /** Adds samples; false where one is newer than the job's figures, which may be on their way. @param {any[]} samples */
    const take = (samples) => {
      const speed = curves?.curve(SPEED, "step");
      for (const { time, utilizationRatio } of samples) {
        const seconds = Date.parse(time) / 1000;
        if (seconds > (speed?.newest?.time || 0)) return false;
        newest = Math.max(newest, seconds);
        const where = speed?.at(seconds);
        if (!where || utilizationRatio === undefined) continue;
        if (where.step < (curve.newest?.step || 0)) curve.cut(where.step);
        curve.add(where.epoch, where.step, seconds, utilizationRatio);
      }
      return true;
    };
    const read = async () => {
      let isWhole = true;
      for (const { agentId, gpuUuid, startTime, endTime } of attempts) {
        const until = endTime ? Date.parse(endTime) : now();
        let from = new Date(Math.max(Date.parse(startTime), newest * 1000 + 1)).toISOString();
        for (let pages = 0; isWhole && from && newest * 1000 < until - 1000 && pages < PAGES; pages += 1) {
          const message = { agent: agentId, gpu: gpuUuid, startTime: from, endTime, byMinute: until - Date.parse(startTime) > LONG };
          // A machine that is gone has nothing to tell.
          const answer = await call("ClusterService/GetTelemetry", message, { signal: stop.signal }).catch(() => ({}));
          isWhole = take(answer.samples || []);
          from = answer.nextStartTime;
        }
      }
      if (stop.signal.aborted) return;
      setCount((count) => count + 1);
      tries += 1;
      if (!isOver(job) || (!isWhole && tries < TRIES)) timer = setTimeout(read, isWhole || tries > TRIES ? LOOK : SOON);
    };
    read();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [key, curve]);
  return curve;
}
