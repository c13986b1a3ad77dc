// @ts-check
/** A sweep as parallel coordinates: a line a job over its parameters, coloured by what it reached. */
import { go } from "../router.js";
import { html, useState } from "../vendor/preact.js";
import { figure } from "./chart.js";
import { jobName } from "./job_parts.js";
import { settings, snake } from "./spec.js";

const [WIDTH, HEIGHT, TOP, SIDE] = [1000, 200, 30, 70];
/** Distinct values up to which each has a place of its own. */
const PLACES = 12;

/**
 * Where the values of one axis stand, 0 to 1 from below.
 * @param {string} name @param {(string | number | undefined)[]} values @param {boolean} [isFigure]
 */
function scale(name, values, isFigure) {
  const known = [...new Set(values.filter((value) => value !== undefined && value !== ""))];
  const numbers = known.map(Number);
  const isNumber = known.length > 0 && numbers.every(Number.isFinite);
  if (isNumber) {
    const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
    // Values that grow by factors have equal steps, as in 0.001, 0.01, 0.1.
    const isWide = low > 0 && high / low >= 20;
    const to = (/** @type {number} */ value) => (isWide ? Math.log(value) : value);
    const at = (/** @type {any} */ value) => (value === undefined ? null : high === low ? 0.5 : (to(Number(value)) - to(low)) / (to(high) - to(low)));
    const marks = known.length <= PLACES && !isFigure ? numbers : [low, (low + high) / 2, high];
    return { name, at, marks: [...new Set(marks)].map((value) => ({ text: figure(value), at: at(value) })) };
  }
  const names = known.map(String).sort();
  const at = (/** @type {any} */ value) => (names.includes(String(value)) ? (names.length > 1 ? names.indexOf(String(value)) / (names.length - 1) : 0.5) : null);
  return { name, at, marks: names.slice(0, PLACES).map((text) => ({ text, at: at(text) })) };
}

/** @param {{ jobs: any[], axes: any[], metric: string, name: string, isLess: boolean, best?: string }} props */
export function Parallel({ jobs, axes, metric, name, isLess, best }) {
  const [over, setOver] = useState("");
  const own = jobs.map((job) => ({ job, of: settings(job.spec), reached: job.progress?.metrics?.[metric] }));
  const parameters = axes.map((one) => snake(one.parameter));
  const scales = [
    ...parameters.map((parameter) => scale(parameter, own.map(({ of }) => of.get(parameter)))),
    scale(name, own.map(({ reached }) => reached), true),
  ];
  const x = (/** @type {number} */ at) => SIDE + ((WIDTH - 2 * SIDE) * at) / (scales.length - 1 || 1);
  const y = (/** @type {number} */ at) => HEIGHT - 16 - (HEIGHT - 16 - TOP) * at;
  const lines = own.map(({ job, of, reached }) => {
    const values = [...parameters.map((parameter) => of.get(parameter)), reached];
    const places = values.map((value, at) => scales[at].at(value));
    const path = places.map((place, at) => (place === null ? "" : `${at ? "L" : "M"}${x(at).toFixed(1)} ${y(place).toFixed(1)}`)).join("");
    const last = places.at(-1);
    const good = last === null || last === undefined ? null : isLess ? 1 - last : last;
    return { job, path, good, values };
  });
  const opacity = Math.max(0.12, Math.min(0.75, 40 / lines.length));
  // The best are drawn last, over the others.
  lines.sort((one, other) => (one.good ?? -1) - (other.good ?? -1));
  const hovered = lines.find((line) => line.job.id === over);
  const tone = (/** @type {number | null} */ good) => (good === null ? "var(--driver)" : `color-mix(in oklab, var(--c0) ${Math.round(100 * good)}%, var(--c4))`);
  return html`<section class="panel" aria-labelledby="parallel"><header><h2 id="parallel">Parameters</h2><span class="grow"></span>
      <span class="muted small">${hovered ? `${jobName(hovered.job)}: ${scales.map((one, at) => `${one.name} ${figured(hovered.values[at])}`).join(", ")}` : ""}</span></header>
    <div class="scroll" tabindex="0" role="group" aria-labelledby="parallel">
    <svg class="parallel" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label=${`${jobs.length} jobs over ${scales.map((one) => one.name).join(", ")}`} onMouseLeave=${() => setOver("")}>
      ${lines.map(
        ({ job, path, good }) => html`<path key=${job.id} d=${path} style=${{ stroke: tone(good), opacity: job.id === over || job.id === best ? 1 : over ? opacity / 3 : opacity }} class=${job.id === over || job.id === best ? "strong" : ""}
          onMouseEnter=${() => setOver(job.id)} onClick=${() => go(`/jobs/${job.id}`)} />`,
      )}
      ${scales.map(
        (one, at) => html`<g key=${one.name}>
          <line x1=${x(at)} x2=${x(at)} y1=${y(0)} y2=${y(1)} />
          <text class="name" x=${x(at)} y="16">${one.name}</text>
          ${one.marks.map((mark) => html`<text key=${mark.text} x=${x(at) - 8} y=${y(mark.at ?? 0) + 4} class="mark">${mark.text}</text>`)}
        </g>`,
      )}
    </svg></div>
  </section>`;
}

/** @param {any} value */
const figured = (value) => (typeof value === "number" ? figure(value) : value ?? "–");
