// @ts-check
/** One GPU as a tile. */
import { call } from "../api.js";
import { Link } from "../router.js";
import { now as time } from "../time.js";
import { clock, gib, percent, seconds, shortId, shortModel, span } from "../units.js";
import { html, useEffect, useRef, useState } from "../vendor/preact.js";

const HOUR = 3600000;
/** Milliseconds between two points that the page adds to a curve by itself. */
const POINT = 20000;
/** How long what is measured now goes on from what is stored, until that is read anew. */
const READ_EVERY = 600000;

/** Which colour a status has; what is not here is neutral. @type {Record<string, string>} */
const TONES = {
  free: "good",
  connected: "good",
  busy: "accent",
  quarantined: "bad",
  unsupported: "bad",
  "not proved": "bad",
  stuck: "bad",
  "quick ends": "bad",
  lost: "bad",
};

/** @param {{ status: string }} props */
export function Pill({ status }) {
  return html`<span class=${`pill ${TONES[status] || "warn"}`}>${status}</span>`;
}

/** @typedef {{ time: number, utilization?: number, temperature?: number, power?: number }} Point */

/**
 * What a machine's GPUs did in the last hour, by UUID: minutes that are stored, then what is seen here.
 * @param {any} machine @returns {Map<string, Point[]>}
 */
export function useHistory(machine) {
  /** @type {{ current: Map<string, Point[]> }} */
  const points = useRef(new Map());
  const [, draw] = useState(0);
  useEffect(() => {
    const stop = new AbortController();
    const read = async () => {
      const startTime = new Date(time() - HOUR).toISOString();
      try {
        const message = { agent: machine.id, byMinute: true, startTime };
        const { samples = [] } = await call("ClusterService/GetTelemetry", message, { signal: stop.signal });
        /** @type {Map<string, Point[]>} */
        const found = new Map();
        for (const { gpu, time: at, utilizationRatio, temperatureCelsius, powerWatts } of samples) {
          const point = { time: Date.parse(at), utilization: utilizationRatio, temperature: temperatureCelsius, power: powerWatts };
          found.set(gpu, [...(found.get(gpu) || []), point]);
        }
        for (const [gpu, own] of points.current) {
          const stored = found.get(gpu) || [];
          const newest = stored.at(-1)?.time || 0;
          found.set(gpu, [...stored, ...own.filter((point) => point.time > newest)]);
        }
        points.current = found;
        draw((/** @type {number} */ count) => count + 1);
      } catch {
        // A machine without curves shows its figures all the same; the connection's state is told elsewhere.
      }
    };
    if (machine.gpus?.length) read();
    const timer = setInterval(read, READ_EVERY);
    return () => {
      stop.abort();
      clearInterval(timer);
    };
  }, [machine.id, machine.gpus?.length]);
  useEffect(() => {
    const now = time();
    for (const gpu of machine.gpus || []) {
      const own = points.current.get(gpu.uuid) || [];
      const isDue = now - (own.at(-1)?.time || 0) >= POINT;
      if (!isDue || gpu.status === "away") continue;
      const point = { time: now, utilization: gpu.utilizationRatio, temperature: gpu.temperatureCelsius, power: gpu.powerWatts };
      points.current.set(gpu.uuid, [...own.filter((old) => old.time > now - HOUR), point]);
    }
  }, [machine]);
  return points.current;
}

const [WIDTH, HEIGHT] = [96, 22];

/** A curve of the last hour. @param {{ points: [number, number][], low: number, high: number }} props */
function Spark({ points, low, high }) {
  const now = time();
  const x = (/** @type {number} */ time) => (WIDTH * (1 - (now - time) / HOUR)).toFixed(1);
  const y = (/** @type {number} */ value) => (HEIGHT - 1 - ((HEIGHT - 2) * (value - low)) / (high - low || 1)).toFixed(1);
  const shown = points.filter(([time]) => time >= now - HOUR);
  const path = shown.map(([time, value], at) => `${at ? "L" : "M"}${x(time)} ${y(value)}`).join("");
  const area = shown.length > 1 && `${path}V${HEIGHT}H${x(shown[0][0])}Z`;
  return html`<svg class="spark" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
    <path class="base" d=${`M0 ${HEIGHT - 0.5}H${WIDTH}`} />
    ${area && html`<path class="area" d=${area} /><path class="curve" d=${path} />`}
  </svg>`;
}

/** A figure with its curve. @param {{ name: string, text: string, points: Point[], of: "utilization" | "temperature" | "power", low: number, high: number }} props */
function Figure({ name, text, points, of, low, high }) {
  const curve = /** @type {[number, number][]} */ (
    points.filter((point) => point[of] !== undefined).map((point) => [point.time, point[of]])
  );
  return html`<div class="figure">
    <span class="value">${text}</span>
    <${Spark} points=${curve} low=${low} high=${Math.max(high, ...curve.map(([, value]) => value))} />
    <span class="name">${name}</span>
  </div>`;
}

/** Who holds a GPU's memory. @param {{ gpu: any }} props */
function Memory({ gpu }) {
  const total = Number(gpu.memoryTotalMib);
  if (gpu.memoryFreeMib === undefined) {
    return html`<div class="memory"><div class="bar" aria-hidden="true"></div><span>${gib(total)} GiB</span></div>`;
  }
  const reserved = Number(gpu.memoryReservedMib || 0);
  const others = Number(gpu.memoryForeignMib || 0);
  const used = Math.max(0, total - Number(gpu.memoryFreeMib));
  const ours = Math.max(0, used - others - reserved);
  const parts = [
    ["ours", ours, "jobs"],
    ["others", others, "other processes"],
    ["reserved", Math.min(reserved, used), "driver"],
  ];
  const text = parts.map(([, mib, name]) => `${name} ${gib(Number(mib))} GiB`).join(", ");
  return html`<div class="memory">
    <div class="bar" role="img" aria-label=${`Memory: ${text}, of ${gib(total)} GiB`} title=${text}>
      ${parts.map(([kind, mib]) => html`<i key=${kind} class=${kind} style=${{ width: `${(100 * Number(mib)) / total}%` }}></i>`)}
    </div>
    <span><b>${gib(used)}</b> / ${gib(total)} GiB</span>
  </div>`;
}

/** The job that something trains. @param {{ id: string, job: any }} props */
export function Running({ id, job }) {
  const progress = job?.progress;
  const done = progress?.epochs ? (progress.epoch - 1 + (progress.batches ? (progress.batch || 0) / progress.batches : 0)) / progress.epochs : 0;
  const eta = seconds(progress?.eta);
  return html`<div class="running">
    <div class="line">
      <${Link} to=${`/jobs/${id}`} class="job">${job?.spec?.name || shortId(id)}<//>
      <span class="muted">${job?.user || ""}</span>
    </div>
    ${progress?.epochs &&
    html`<div class="progress" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(100 * done)}>
        <i style=${{ width: `${100 * done}%` }}></i>
      </div>
      <div class="line muted">
        <span>epoch ${progress.epoch} / ${progress.epochs}</span>
        <span>${eta === undefined ? "" : `${span(eta)} left`}</span>
      </div>`}
  </div>`;
}

/** @type {[string, number][]} */
const SPANS = [
  ["1 hour", 3600],
  ["2 hours", 7200],
  ["8 hours", 28800],
  ["1 day", 86400],
  ["1 week", 604800],
];

/**
 * What one may order of a GPU.
 * @param {{ gpu: any, machine: any, order: (method: string, message: object) => Promise<any>, reserve: (gpu: any, span: string) => void }} props
 */
function Orders({ gpu, machine, order, reserve }) {
  const menu = useRef(/** @type {HTMLDetailsElement | null} */ (null));
  useEffect(() => {
    const close = (/** @type {Event} */ event) => {
      const own = menu.current;
      if (!own?.open) return;
      if (event.type === "keydown" && /** @type {KeyboardEvent} */ (event).key === "Escape") {
        own.open = false;
        own.querySelector("summary")?.focus();
      }
      if (event.type === "click" && !own.contains(/** @type {Node} */ (event.target))) own.open = false;
    };
    addEventListener("click", close);
    addEventListener("keydown", close);
    return () => {
      removeEventListener("click", close);
      removeEventListener("keydown", close);
    };
  }, []);
  const close = () => void (menu.current && (menu.current.open = false));
  const give = (/** @type {string} */ method, /** @type {object} */ message) => {
    close();
    order(method, { agent: machine.id, ...message });
  };
  const hold = (/** @type {number} */ length) => {
    close();
    reserve(gpu, `${length}s`);
  };
  const which = `GPU ${gpu.index || 0} of ${machine.name}`;
  const cause = gpu.unavailable?.cause;
  return html`<details class="menu" ref=${menu}>
    <summary aria-label=${`Orders for ${which}`}>⋯</summary>
    <div class="choices">
      ${gpu.reservedUntil
        ? html`<button type="button" aria-label=${`Release ${which}`} onClick=${() => give("ReleaseGpus", { gpus: [gpu.uuid] })}>Release</button>`
        : html`<p class="muted small">Reserve for</p>
            ${SPANS.map(
              ([name, length]) => html`<button type="button" key=${name} aria-label=${`Reserve ${which} for ${name}`} onClick=${() => hold(length)}>${name}</button>`,
            )}`}
      ${(cause === "QUARANTINED" || cause === "QUICK_ENDS") &&
      html`<button type="button" aria-label=${`Clear: try it again, ${which}`} onClick=${() => give("ClearGpu", { gpu: gpu.uuid })}>Clear: try it again</button>`}
    </div>
  </details>`;
}

/** @param {{ gpu: any, machine: any, job: any, history: Point[], may: boolean, order: any, reserve: any }} props */
export function Gpu({ gpu, machine, job, history, may, order, reserve }) {
  const isAway = gpu.status === "away";
  const now = (/** @type {any} */ value, /** @type {string} */ text) => (isAway || value === undefined ? "–" : text);
  return html`<li class="tile">
    <div class="top">
      <h3><span class="index">${gpu.index || 0}</span> ${shortModel(gpu.model)}</h3>
      <${Pill} status=${gpu.status} />
      ${may && !isAway && html`<${Orders} gpu=${gpu} machine=${machine} order=${order} reserve=${reserve} />`}
    </div>
    <${Memory} gpu=${gpu} />
    <div class="sparks">
      <${Figure} name="load" text=${now(gpu.utilizationRatio, percent(gpu.utilizationRatio))} points=${history} of="utilization" low=${0} high=${1} />
      <${Figure} name="temp" text=${now(gpu.temperatureCelsius, `${gpu.temperatureCelsius} °C`)} points=${history} of="temperature" low=${20} high=${90} />
      <${Figure} name="power" text=${now(gpu.powerWatts, `${Math.round(gpu.powerWatts)} W`)} points=${history} of="power" low=${0} high=${100} />
    </div>
    ${gpu.jobId && html`<${Running} id=${gpu.jobId} job=${job} />`}
    ${(gpu.statusReason || gpu.reservedUntil) &&
    html`<p class="reason" title=${gpu.statusReason}>${gpu.statusReason}${gpu.reservedUntil ? html` <b>until ${clock(gpu.reservedUntil)}</b>` : ""}</p>`}
  </li>`;
}
