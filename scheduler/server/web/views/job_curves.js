// @ts-check
/** The charts of a job. */
import { html, useMemo } from "../vendor/preact.js";
import { Chart } from "./chart.js";
import { useUtilization } from "./job_events.js";
import { Controls, look, setRange } from "./look.js";

/** Charts in their order, by how the names of their figures begin. */
const CHARTS = [
  ["Training losses", "train/"],
  ["Validation losses", "val/"],
  ["Accuracy", "metrics/"],
  ["Learning rate", "lr/"],
];

const [SPEED, WAIT] = ["speed/images a second", "speed/waiting for data"];

/** `box` of `train/box_loss`, `mAP50` of `metrics/mAP50(B)`. @param {string} name */
export const short = (name) => name.replace(/^[^/]*\//, "").replace(/\(B\)|_loss$/g, "");

/** @param {{ job: any, curves: import("./curves.js").Curves | undefined, query: URLSearchParams, version: number }} props */
export function JobCurves({ job, curves, query, version }) {
  const utilization = useUtilization(job, curves);
  const names = [...(curves?.all.keys() || [])].sort();
  const { axis, ...rest } = look(query);
  const since = curves?.since || 0;
  const charts = useMemo(() => {
    const rest = names.filter((name) => ![...CHARTS.map(([, start]) => start), "speed/"].some((start) => name.startsWith(start)));
    const groups = [
      ...CHARTS.map(([title, start]) => ({ title, of: names.filter((name) => name.startsWith(start)) })),
      { title: "Images a second", of: names.filter((name) => name === SPEED) },
      { title: "Other figures", of: rest },
    ];
    return groups.filter((group) => group.of.length);
  }, [names.join("\n")]);
  if (!curves || !charts.length) return null;
  const line = (/** @type {string} */ key, /** @type {string} */ label, /** @type {any} */ curve, /** @type {number} */ at) => ({ key, label, curve, since, color: at });
  const uses = [line(WAIT, "waiting for data", curves.curve(WAIT, axis), 1)];
  if (utilization.length) uses.unshift(line("gpu", "GPU busy", utilization, 0));
  const shared = { axis, ...rest, onRange: setRange, marks: curves.marks, since, group: job.id, version };
  return html`<section aria-label="Curves">
    <${Controls} query=${query} />
    <div class="charts">
      ${charts.map(({ title, of }) => {
        const lines = of.map((name, at) => line(name, short(name), curves.curve(name, axis), at));
        return html`<${Chart} key=${title} title=${title} lines=${lines} ...${shared} />`;
      })}
      <${Chart} key="use" title="Share of time" lines=${uses} bounds=${[0, 1]} ...${shared} log=${false} version=${version + utilization.length} />
    </div>
    ${curves.marks.length > 0 && html`<p class="muted small">${"Dashed: an attempt began. Ticks at the top: warnings and errors of the log."}</p>`}
  </section>`;
}
