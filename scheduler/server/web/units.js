// @ts-check
/** Figures with their units. No sentences: those are the server's. */
import { now } from "./time.js";

/** @param {number | string} mib */
export function gib(mib) {
  return (Number(mib) / 1024).toFixed(1);
}

/** @param {number | undefined} ratio From 0 to 1. */
export function percent(ratio) {
  return ratio === undefined ? "–" : `${Math.round(ratio * 100)} %`;
}

/** `RTX 4090` of `NVIDIA GeForce RTX 4090`. @param {string} model */
export function shortModel(model) {
  return model.replace(/^NVIDIA (GeForce )?/, "");
}

/** Seconds in the two largest units. @param {number} seconds */
export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** A duration of the API, such as `12.5s`, in seconds. @param {string | undefined} text */
export function seconds(text) {
  return text ? Number.parseFloat(text) : undefined;
}

const HOURS = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat([], { day: "numeric", month: "short" });

/** When, in this browser's time zone: the time today, else with the day. @param {string} time */
export function clock(time) {
  const at = new Date(time);
  const hours = HOURS.format(at);
  if (at.toDateString() === new Date(now()).toDateString()) return hours;
  return `${DAY.format(at)}, ${hours}`;
}

/** The start of an id that people say. @param {string} id */
export function shortId(id) {
  return id.replaceAll("-", "").slice(0, 12);
}

/** `1 job`, `2 jobs`. @param {number} number @param {string} of */
export function count(number, of) {
  return `${number.toLocaleString()} ${of}${number === 1 ? "" : "s"}`;
}

/** Versions by as many digits as name them everywhere. @param {string} text */
export function short(text) {
  return text.replace(/@([0-9a-f]{12})[0-9a-f]{52}\b/g, "@$1");
}

/** Bytes with a unit. @param {number | string} count */
export function bytes(count) {
  let [value, unit] = [Number(count), "B"];
  for (const next of ["KiB", "MiB", "GiB", "TiB"]) {
    if (value < 1024) break;
    [value, unit] = [value / 1024, next];
  }
  return `${unit === "B" || value >= 100 ? Math.round(value) : value.toFixed(1)} ${unit}`;
}
