// @ts-check
/** What a job measures, over its epochs, steps and time: bounded, however long it trains. */

/** Points that a curve keeps; then neighbours become their least and their most. */
const MOST = 4096;
/** Curves of a job, and marks: further ones are left out. */
const NAMES = 64;
const MARKS = 200;
/** Numbers of a point. */
const [EPOCH, STEP, TIME, VALUE, SIZE] = [0, 1, 2, 3, 4];

/** @typedef {"epoch" | "step" | "time"} Axis */
/** @typedef {{ axis: Axis, range: [number, number] | null, pixels: number, smoothing: number, log: boolean }} Look */

/** Points in the order of their coming. */
export class Curve {
  /** Point after point: epoch, step, time in seconds, value. @type {number[]} */
  #points = [];
  /** How many points that came are merged into two. */
  #stride = 1;
  /** Those since the last two. @type {number[]} */
  #open = [];

  get length() {
    return (this.#points.length + this.#open.length) / SIZE;
  }

  /** The newest value. @returns {number | undefined} */
  get last() {
    return (this.#open.length ? this.#open : this.#points).at(-1);
  }

  /** Where and when the newest value is. */
  get newest() {
    const part = this.#open.length ? this.#open : this.#points;
    const at = part.length - SIZE;
    return at < 0 ? null : { epoch: part[at], step: part[at + STEP], time: part[at + TIME] };
  }

  /** @param {number} epoch @param {number} step @param {number} time @param {number} value */
  add(epoch, step, time, value) {
    this.#open.push(epoch, step, time, value);
    if (this.#open.length < this.#stride * SIZE) return;
    this.#points.push(...(this.#stride > 1 ? extremes(this.#open) : this.#open));
    this.#open = [];
    if (this.#points.length < MOST * SIZE) return;
    const merged = [];
    for (let at = 0; at < this.#points.length; at += 4 * SIZE) merged.push(...extremes(this.#points.slice(at, at + 4 * SIZE)));
    this.#points = merged;
    this.#stride *= this.#stride === 1 ? 4 : 2;
  }

  /** Forgets what is from this step on: an attempt that goes on from a checkpoint does it anew. @param {number} step */
  cut(step) {
    for (const part of [this.#open, this.#points]) {
      while (part.length && part[part.length - SIZE + STEP] >= step) part.length -= SIZE;
    }
  }

  /** @param {(x: { epoch: number, step: number, time: number }, value: number) => void} take */
  each(take) {
    for (const part of [this.#points, this.#open]) {
      for (let at = 0; at < part.length; at += SIZE) {
        take({ epoch: part[at], step: part[at + STEP], time: part[at + TIME] }, part[at + VALUE]);
      }
    }
  }

  /** Where a time was, between the points around it. @param {number} time */
  at(time) {
    const all = this.#points;
    let [low, high] = [0, all.length / SIZE - 1];
    if (high < 0 || time < all[TIME]) return null;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (all[middle * SIZE + TIME] <= time) low = middle;
      else high = middle;
    }
    const [from, to] = [low * SIZE, high * SIZE];
    const part = Math.min(1, (time - all[from + TIME]) / (all[to + TIME] - all[from + TIME] || 1));
    const between = (/** @type {number} */ of) => all[from + of] + part * (all[to + of] - all[from + of]);
    return { epoch: between(EPOCH), step: between(STEP) };
  }

  /** Its x and y, smoothed, as far as they are in the range and one further. @param {Look} look @param {number} since */
  line({ axis, range, smoothing, log }, since) {
    const [xs, ys] = [/** @type {number[]} */ ([]), /** @type {number[]} */ ([])];
    let [mean, weight, isPast] = [0, 0, false];
    this.each((where, value) => {
      if (isPast || !Number.isFinite(value)) return;
      mean = smoothing * mean + (1 - smoothing) * value;
      weight = smoothing * weight + (1 - smoothing);
      const x = where[axis] - (axis === "time" ? since : 0);
      const y = mean / weight;
      if (log && y <= 0) return;
      if (range && x < range[0]) [xs.length, ys.length] = [0, 0];
      isPast = !!range && x > range[1];
      xs.push(x);
      ys.push(y);
    });
    return { xs, ys };
  }
}

/** The points with the least and the most value, in their order. @param {number[]} points */
function extremes(points) {
  let [low, high] = [0, 0];
  for (let at = SIZE; at < points.length; at += SIZE) {
    if (points[at + VALUE] < points[low + VALUE]) low = at;
    if (points[at + VALUE] >= points[high + VALUE]) high = at;
  }
  const [first, second] = low < high ? [low, high] : [high, low];
  const one = points.slice(first, first + SIZE);
  return first === second ? one : [...one, ...points.slice(second, second + SIZE)];
}

/**
 * Curves over common values of x, as they are drawn: every point where there is room, else the least and most a pixel.
 * @param {{ curve: Curve, since: number }[]} curves @param {Look} look @returns {(number | null)[][]}
 */
export function aligned(curves, look) {
  const lines = curves.map(({ curve, since }) => curve.line(look, since));
  const count = lines.reduce((sum, line) => sum + line.xs.length, 0);
  const { pixels } = look;
  if (count <= 4 * pixels) {
    const xs = [...new Set(lines.flatMap((line) => line.xs))].sort((one, other) => one - other);
    const places = new Map(xs.map((x, at) => [x, at]));
    return [xs, ...lines.map((line) => {
      const column = new Array(xs.length).fill(null);
      for (const [at, x] of line.xs.entries()) column[/** @type {number} */ (places.get(x))] = line.ys[at];
      return column;
    })];
  }
  const [low, high] = look.range || [Math.min(...lines.map((line) => line.xs[0] ?? Infinity)), Math.max(...lines.map((line) => line.xs.at(-1) ?? -Infinity))];
  const wide = (high - low) / pixels || 1;
  const xs = Array.from({ length: 2 * pixels }, (_, at) => low + (at / 2 + 0.25) * wide);
  return [xs, ...lines.map((line) => {
    const column = new Array(xs.length).fill(null);
    const places = new Array(pixels * 2).fill(0);
    for (const [at, x] of line.xs.entries()) {
      const y = line.ys[at];
      const to = 2 * Math.min(pixels - 1, Math.max(0, Math.floor((x - low) / wide)));
      if (column[to] === null) [column[to], places[to]] = [y, at];
      else if (column[to + 1] === null) [column[to + 1], places[to + 1]] = [y, at];
      else {
        // The two that are farthest apart, in their order.
        const all = [[column[to], places[to]], [column[to + 1], places[to + 1]], [y, at]].sort((one, other) => one[0] - other[0]);
        const [first, second] = [all[0], all[2]].sort((one, other) => one[1] - other[1]);
        [column[to], places[to], column[to + 1], places[to + 1]] = [...first, ...second];
      }
    }
    return column;
  })];
}

/** Whether a figure belongs to one class: `metrics/mAP50(B)/cat`. @param {string} name */
export const ofClass = (name) => /^metrics\/mAP50(-95)?\(B\)\//.test(name);

/** @typedef {{ epoch: number, step: number, time: number, text: string, tone: string }} Mark */

/** All that a job's events measure. */
export class Curves {
  /** @type {Map<string, { steps: Curve, epochs: Curve }>} */
  all = new Map();
  /** @type {Mark[]} */
  marks = [];
  #attempt = 0;
  /** Where the newest figures are. */
  #place = { epoch: 0, step: 0, time: 0 };
  /** When the first figures came, in seconds. */
  since = 0;

  /** @param {any} event */
  add(event) {
    const time = Date.parse(event.time) / 1000;
    if (event.metrics) this.#measure(event.metrics, event.attempt || 0, time);
    const { level, message } = event.logLine || {};
    if (level === "WARNING" || level === "ERROR") this.#mark(time, message, level === "ERROR" ? "bad" : "warn");
  }

  /** @param {number} time @param {string} text @param {string} tone */
  #mark(time, text, tone) {
    this.marks.push({ ...this.#place, time, text, tone });
    if (this.marks.length > MARKS) this.marks.shift();
  }

  /** @param {any} metrics @param {number} attempt @param {number} time */
  #measure({ epoch = 1, batch = 0, batches = 0, epochEnd, imagesPerSecond, loaderWaitRatio = 0, values = {} }, attempt, time) {
    const step = epochEnd ? epoch * batches : (epoch - 1) * batches + batch;
    const at = epochEnd ? epoch : epoch - 1 + (batches ? batch / batches : 0);
    if (!this.since) this.since = time;
    if (attempt !== this.#attempt) {
      for (const curves of this.all.values()) for (const curve of Object.values(curves)) curve.cut(step);
      this.#place = { epoch: at, step, time };
      if (attempt > 1 || this.#attempt) this.#mark(time, `attempt ${attempt}`, "");
      this.#attempt = attempt;
    }
    this.#place = { epoch: at, step, time };
    const figures = { ...values, "speed/images a second": imagesPerSecond, "speed/waiting for data": loaderWaitRatio };
    for (const [name, value] of Object.entries(figures)) {
      if (typeof value !== "number" || ofClass(name)) continue;
      const curves = this.all.get(name) || { steps: new Curve(), epochs: new Curve() };
      if (this.all.size < NAMES) this.all.set(name, curves);
      curves[epochEnd ? "epochs" : "steps"].add(at, step, time, value);
    }
  }

  /** The curve of a figure that has most to show over an axis. @param {string} name @param {Axis} axis */
  curve(name, axis) {
    const own = this.all.get(name);
    if (!own) return null;
    const [first, second] = axis === "epoch" ? [own.epochs, own.steps] : [own.steps, own.epochs];
    return first.length ? first : second;
  }
}

