// @ts-check
/** The fields of a job as a form has them, and between a form's texts and a spec. */
import { short } from "../units.js";
import { snake } from "./spec.js";

/** `usual`: what the scheduler takes where a form says nothing. @typedef {{ path: string, name: string, kind: string, choices?: string[], usual: string, unit?: string }} Field */

/** @type {Record<string, string[]>} */
const CHOICES = {
  model: ["yolov8n", "yolov8s", "yolov8m", "yolov8l", "yolov8x"],
  cache: ["disk", "ram", "none"],
  optimizer: ["SGD", "AdamW", "auto"],
  device: ["gpu", "cpu"],
};
/** @type {Record<string, string>} */
const UNITS = { time: "hours", imgsz: "px", batch: "-1: auto", minVramMib: "MiB", checkpointMinutes: "minutes", degrees: "°", shear: "°", timeLimit: "36h, 90m" };

/** What stands where; what is named nowhere stands with the training. @type {[string, string[]][]} */
const GROUPS = [
  ["Training", ["epochs", "imgsz", "batch", "time", "patience", "seed"]],
  ["Where and when", ["device", "gpuModels", "minVramMib", "priority", "timeLimit", "maxRetries", "labels"]],
  ["Optimiser", ["optimizer", "lr0", "lrf", "cosLr", "momentum", "weightDecay", "nbs", "warmupEpochs", "warmupMomentum", "warmupBiasLr", "box", "cls", "dfl"]],
  ["Augmentation", ["hsvH", "hsvS", "hsvV", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr", "mosaic", "mixup", "closeMosaic", "multiScale"]],
];
const REST = "More of the training";
/** These have places of their own. */
const APART = ["model", "data", "pretrained"];

/** @param {string} path @param {any} usual @returns {Field} */
function field(path, usual) {
  const key = path.split(".").at(-1) || "";
  const kind = CHOICES[key] ? "choice" : typeof usual === "boolean" ? "truth" : /^-?[\d.]+$/.test(String(usual)) ? "number" : "text";
  return { path, name: snake(key), kind, choices: CHOICES[key], usual: String(usual), unit: UNITS[key] };
}

/**
 * The groups of fields, of what the scheduler makes of a job that says nothing.
 * @param {any} spec @returns {[string, Field[]][]}
 */
export function groupsOf(spec) {
  const { train = {}, resources = {} } = spec;
  /** @type {Map<string, Field>} */
  const all = new Map();
  for (const [name, value] of Object.entries(train)) if (!APART.includes(name)) all.set(name, field(`train.${name}`, value));
  for (const [name, usual] of [["device", resources.device], ["gpuModels", "any"], ["minVramMib", resources.minVramMib || 0]]) {
    all.set(name, field(`resources.${name}`, usual));
  }
  for (const [name, usual] of [["priority", spec.priority || 0], ["maxRetries", spec.maxRetries], ["timeLimit", "none"], ["labels", "none"]]) {
    all.set(name, field(name, usual));
  }
  const groups = GROUPS.map(([title, names]) => {
    const fields = names.flatMap((name) => all.get(name) || []);
    for (const name of names) all.delete(name);
    return /** @type {[string, Field[]]} */ ([title, fields]);
  });
  return [...groups, [REST, [...all.values()]]];
}

/** Seconds of `1h30m`; the text where it is none. @param {string} text */
function parseSpan(text) {
  const parts = text.trim().match(/^(?:(\d+)d)?\s*(?:(\d+)h)?\s*(?:(\d+)m)?\s*(?:(\d+)s?)?$/);
  if (!parts) return text;
  const [days = 0, hours = 0, minutes = 0, rest = 0] = parts.slice(1).map((part) => Number(part || 0));
  return `${days * 86400 + hours * 3600 + minutes * 60 + rest}s`;
}

/** @param {string} text Such as `5400s`. */
function showSpan(text) {
  const whole = Number.parseFloat(text);
  for (const [unit, length] of /** @type {[string, number][]} */ ([["h", 3600], ["m", 60]])) {
    if (whole % length === 0) return `${whole / length}${unit}`;
  }
  return `${whole}s`;
}

const list = (/** @type {string} */ text) => text.split(",").map((part) => part.trim()).filter(Boolean);

/** Labels as they are written; the last of those with one key counts. @param {string} text @returns {[string, string][]} */
const labelsOf = (text) =>
  list(text).map((part) => {
    const [key, ...value] = part.split("=");
    return [key.trim(), value.join("=").trim()];
  });

/** What `yard` says of such labels, too, as no spec can hold them; empty where nothing is wrong. @param {string} text */
export function wrongLabels(text) {
  const wrong = list(text).find((part) => part.indexOf("=") < 1);
  if (wrong) return `\`${wrong}\` is not a label; write key=value`;
  const keys = labelsOf(text).map(([key]) => key);
  const twice = keys.find((key, at) => keys.indexOf(key) < at);
  return twice === undefined ? "" : `\`${twice}\` is there twice; a label has one value`;
}

/** @param {Record<string, string>} values By path. @param {Field[]} fields @returns {any} The spec that a form describes. */
export function specOf(values, fields) {
  /** @type {any} */
  const spec = { train: {}, resources: {} };
  const kinds = new Map(fields.map((one) => [one.path, one.kind]));
  for (const [path, raw] of Object.entries(values)) {
    const text = raw.trim();
    if (!text) continue;
    /** @type {any} */
    let value = text;
    if (path === "timeLimit") value = parseSpan(text);
    else if (path === "resources.gpuModels") value = list(text);
    else if (path === "labels") value = Object.fromEntries(labelsOf(text));
    else if (kinds.get(path) === "truth") value = text === "true";
    else if (kinds.get(path) === "number" && Number.isFinite(Number(text))) value = Number(text);
    const [first, second] = path.split(".");
    if (second) spec[first][second] = value;
    else spec[first] = value;
  }
  return spec;
}

/** What a form shows of a spec; what is as usual stays empty. @param {any} spec @param {Field[]} fields @returns {Record<string, string>} */
export function valuesOf(spec, fields) {
  const { model = "", data = "", pretrained = "" } = spec.train || {};
  /** @type {Record<string, string>} */
  const values = { name: spec.name || "", "train.model": model, "train.data": short(data), "train.pretrained": short(pretrained) };
  for (const { path, usual } of fields) {
    const [first, second] = path.split(".");
    let value = second ? spec[first]?.[second] : spec[first];
    if (path === "timeLimit" && value) value = showSpan(value);
    if (path === "labels") value = Object.entries(value || {}).map((pair) => pair.join("=")).join(", ");
    if (Array.isArray(value)) value = value.join(", ");
    const isUsual = value === undefined || String(value) === usual;
    values[path] = isUsual ? "" : String(value);
  }
  return values;
}

/** The path of a field that the scheduler names, as in `spec.resources.gpu_models[1]`. @param {string} name */
export function pathOf(name) {
  return name
    .replace(/^spec\./, "")
    .replace(/\[.*$/, "")
    .replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
}
