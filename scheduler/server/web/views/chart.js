// @ts-check
/** A chart of several curves: uPlot, with a legend that works by keyboard, marks, and a range that its views share. */
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact.js";
import { aligned } from "./curves.js";

const HEIGHT = 190;
/** How far apart the marks of an axis may be. */
const TIMES = [1, 5, 10, 15, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800];
const COUNTS = [0, 1, 2, 3, 4, 5, 6, 7].flatMap((power) => [10 ** power, 2 * 10 ** power, 5 * 10 ** power]);
/** Colours of style.css; later lines take them again, dashed. */
export const COLORS = 8;

/** A curve in a chart. @typedef {{ key: string, label: string, curve: import("./curves.js").Curve | null, since: number, color: number }} Line */
/** @typedef {import("./curves.js").Axis} Axis */

/** @type {Promise<any> | undefined} */
let loading;
/** The library, when the first chart needs it. */
function uplot() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = new URL("../vendor/uplot.js", import.meta.url).href;
    script.onload = () => resolve(/** @type {any} */ (globalThis).uPlot);
    script.onerror = () => {
      loading = undefined;
      reject(new Error("the page's charts cannot be loaded"));
    };
    document.head.append(script);
  });
  return loading;
}

/** A figure with as many digits as mean something. @param {number | null | undefined} value */
export function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(2);
  return size >= 1000 ? String(Math.round(value)) : String(Number(value.toPrecision(4)));
}

/** A time since the start, as exactly as the marks of an axis are. @param {number} seconds */
function lapse(seconds) {
  const part = (/** @type {number} */ unit, /** @type {number} */ lower) => {
    const rest = Math.round((seconds % unit) / lower);
    return Math.floor(seconds / unit) + (rest ? `:${String(rest).padStart(2, "0")}` : "");
  };
  if (seconds < 60) return `${figure(seconds)} s`;
  if (seconds < 3600) return `${part(60, 1)} min`;
  return seconds < 172800 ? `${part(3600, 60)} h` : `${figure(seconds / 86400)} d`;
}

/** A value of an axis. @param {Axis} axis @param {number} value */
const place = (axis, value) => (axis === "time" ? lapse(value) : figure(value));

/** Colours of the theme, as they were read. @type {Map<string, string>} */
const known = new Map();
/** @param {string} name */
function style(name) {
  if (!known.has(name)) {
    // A variable has both themes' colours; what is drawn with it has one.
    const drawn = document.createElement("i");
    drawn.style.color = `var(${name})`;
    document.body.append(drawn);
    known.set(name, getComputedStyle(drawn).color);
    drawn.remove();
  }
  return known.get(name) || "";
}
export const color = (/** @type {number} */ at) => `var(--c${at % COLORS})`;

/** Draws anew when the colours are others. @param {() => void} redraw */
function onTheme(redraw) {
  const draw = () => {
    known.clear();
    redraw();
  };
  const seen = new MutationObserver(draw);
  seen.observe(document.documentElement, { attributeFilter: ["data-theme"] });
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", draw);
  return () => {
    seen.disconnect();
    scheme.removeEventListener("change", draw);
  };
}

/** Vertical lines where something happened. @param {any} plot @param {any[]} marks @param {Axis} axis @param {number} since */
function drawMarks(plot, marks, axis, since) {
  const { ctx, bbox } = plot;
  const pixel = devicePixelRatio;
  ctx.save();
  ctx.font = `${11 * pixel}px system-ui, sans-serif`;
  ctx.lineWidth = pixel;
  for (const mark of marks) {
    const x = plot.valToPos(mark[axis] - (axis === "time" ? since : 0), "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    const tone = style(mark.tone ? `--${mark.tone}` : "--muted");
    [ctx.strokeStyle, ctx.fillStyle] = [tone, tone];
    if (mark.tone) {
      ctx.fillRect(x - pixel, bbox.top, 2 * pixel, 6 * pixel);
      continue;
    }
    ctx.setLineDash([3 * pixel, 3 * pixel]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.fillText(mark.text, x + 3 * pixel, bbox.top + 11 * pixel);
  }
  ctx.restore();
}

/**
 * @param {{ title: string, lines: Line[], axis: Axis, smoothing?: number, log?: boolean, range: [number, number] | null,
 *   onRange: (range: [number, number] | null) => void, bounds?: [number, number], marks?: any[], since?: number,
 *   group: string, version: number, hidden?: string[], onToggle?: (key: string) => void, height?: number }} props
 * `version` grows when the curves do; charts of one `group` share their cursor.
 */
export function Chart(props) {
  const { title, lines, axis, smoothing = 0, log = false, range, version, height = HEIGHT } = props;
  const [own, setOwn] = useState(/** @type {string[]} */ ([]));
  const [at, setAt] = useState(/** @type {number | null} */ (null));
  const [problem, setProblem] = useState("");
  const [width, setWidth] = useState(0);
  const [plot, setPlot] = useState(/** @type {any} */ (null));
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const hidden = props.hidden || own;
  const toggle = props.onToggle || ((key) => setOwn(own.includes(key) ? own.filter((one) => one !== key) : [...own, key]));
  const shown = lines.filter((line) => !hidden.includes(line.key) && line.curve?.length);
  const look = shown.map((line) => `${line.key} ${line.color}`).join("\n");
  /** What hooks read. @type {{ current: any }} */
  const now = useRef({});
  now.current = props;

  useEffect(() => {
    // Asking for the width would lay out the whole page.
    const seen = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    if (box.current) seen.observe(box.current);
    return () => seen.disconnect();
  }, []);
  useEffect(() => {
    if (!width) return undefined;
    let [isOpen, made] = [true, /** @type {any} */ (null)];
    uplot().then((Plot) => {
      if (!isOpen || !box.current) return;
      made = new Plot(options(Plot, shown, now, setAt, width, height), [[], ...shown.map(() => [])], box.current);
      setPlot(made);
    }, (cause) => setProblem(cause.message));
    const end = onTheme(() => made?.redraw());
    return () => {
      isOpen = false;
      end();
      made?.destroy();
      setPlot(null);
    };
  }, [look, axis, log, height, width > 0]);
  useEffect(() => {
    if (plot && plot.width !== width) plot.setSize({ width, height });
  }, [plot, width]);

  const data = useMemo(() => {
    const pixels = Math.max(50, width - 60);
    return aligned(shown.map(({ curve, since }) => ({ curve: /** @type {any} */ (curve), since })), { axis, range, pixels, smoothing, log });
  }, [width, look, version, axis, smoothing, log, range?.[0], range?.[1]]);
  useEffect(() => {
    if (plot?.series.length === data.length) plot.setData(data);
  }, [plot, data]);

  const value = (/** @type {Line} */ line) => {
    const index = shown.indexOf(line);
    return figure(at === null || index < 0 ? line.curve?.last : near(data[index + 1], at));
  };
  return html`<figure class="chart">
    <figcaption><b>${title}</b>${at !== null && data[0][at] !== undefined && html`<span class="muted small">${axis === "time" ? "" : `${axis} `}${place(axis, Number(data[0][at]))}</span>`}</figcaption>
    <div class="keys">
      ${lines.map(
        (line) => html`<button type="button" key=${line.key} aria-pressed=${String(!hidden.includes(line.key))} title=${line.label} onClick=${() => toggle(line.key)}>
          <i style=${{ background: color(line.color) }} class=${line.color >= COLORS ? "dashed" : ""} aria-hidden="true"></i><span>${line.label}</span> <b>${value(line)}</b>
        </button>`,
      )}
    </div>
    ${problem && html`<p class="notice">${problem}</p>`}
    <div ref=${box} class="plot" role="img" aria-label=${`${title} by ${axis}`} style=${{ minHeight: `${height}px` }}></div>
  </figure>`;
}

/** The value at a place, or the last one before it. @param {(number | null)[]} column @param {number} at */
function near(column, at) {
  while (at >= 0 && (column[at] === null || column[at] === undefined)) at -= 1;
  return column[at];
}

/** How uPlot is to draw. @param {any} Plot @param {Line[]} lines @param {{ current: any }} now @param {(at: number | null) => void} setAt @param {number} width @param {number} height */
function options(Plot, lines, now, setAt, width, height) {
  const { axis, log, bounds, group } = now.current;
  const around = (/** @type {any} */ _, /** @type {number | null} */ low, /** @type {number | null} */ high) => {
    // No logarithm of nothing: uPlot would look for one for ever.
    if (low === null || high === null) return bounds || [log ? 0.1 : 0, 1];
    if (low === high && !log) return bounds || (low ? [low - Math.abs(low) / 10, low + Math.abs(low) / 10] : [0, 1]);
    if (log) return Plot.rangeLog(low, high, 10, false);
    return bounds || Plot.rangeNum(low, high, 0.1, true);
  };
  const along = (/** @type {any} */ _, /** @type {number} */ low, /** @type {number} */ high) => {
    if (now.current.range) return now.current.range;
    if (low === null || high === null) return [0, 1];
    return low === high ? [low - 0.5, high + 0.5] : [low, high];
  };
  const lined = { stroke: () => style("--muted"), font: "11px system-ui, sans-serif", grid: { stroke: () => style("--line"), width: 1 }, ticks: { show: false } };
  const passes = (/** @type {string} */ type) => type === "mousemove" || type === "mouseleave";
  return {
    width,
    height,
    legend: { show: false },
    cursor: {
      sync: { key: group, setSeries: false, filters: { pub: passes, sub: passes } },
      drag: { x: true, y: false, setScale: false },
      bind: { dblclick: () => () => now.current.onRange(null) },
      y: false,
      points: { size: 6 },
    },
    scales: { x: { time: false, range: along }, y: { distr: log ? 3 : 1, range: around } },
    axes: [
      { ...lined, size: 26, space: 64, incrs: axis === "time" ? TIMES : COUNTS,
        values: (/** @type {any} */ _, /** @type {number[]} */ all) => all.map((value) => place(axis, value)) },
      { ...lined, size: 48, values: (/** @type {any} */ _, /** @type {(number | null)[]} */ all) => all.map((value) => (value === null ? "" : figure(value))) },
    ],
    series: [
      {},
      ...lines.map((line) => ({
        stroke: () => style(`--c${line.color % COLORS}`),
        width: 1.6,
        dash: line.color >= COLORS ? [5, 3] : undefined,
        spanGaps: true,
        points: { show: (line.curve?.length || 0) < 3, size: 6 },
      })),
    ],
    hooks: {
      setCursor: [(/** @type {any} */ plot) => setAt(plot.cursor.left >= 0 ? plot.cursor.idx : null)],
      setSelect: [
        (/** @type {any} */ plot) => {
          const { left, width: wide } = plot.select;
          if (wide > 4) now.current.onRange([plot.posToVal(left, "x"), plot.posToVal(left + wide, "x")]);
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        },
      ],
      draw: [(/** @type {any} */ plot) => drawMarks(plot, now.current.marks || [], axis, now.current.since || 0)],
    },
  };
}
