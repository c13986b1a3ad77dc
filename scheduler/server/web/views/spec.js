// @ts-check
/** A job's settings under the names that people write. */
import { short } from "../units.js";

/** `lr0` of `lr0`, `weight_decay` of `weightDecay`. @param {string} name */
export const snake = (name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** @param {any} value */
function shown(value) {
  if (Array.isArray(value)) return value.join(" | ");
  return typeof value === "object" && value ? JSON.stringify(value) : short(String(value ?? ""));
}

/** Of specs that were read before. @type {WeakMap<object, Map<string, string>>} */
const read = new WeakMap();

/** Every setting of a spec by name, in the order of the form. @param {any} spec @returns {Map<string, string>} */
export function settings(spec = {}) {
  const known = read.get(spec);
  if (known) return known;
  const all = new Map();
  read.set(spec, all);
  const { train = {}, resources = {}, labels = {}, name: _, ...rest } = spec;
  for (const part of [train, resources, rest]) {
    for (const [name, value] of Object.entries(part)) all.set(snake(name), shown(value));
  }
  for (const [name, value] of Object.entries(labels)) {
    // A sweep says again what the training's settings say.
    if (name !== "sweep" && all.get(name) !== short(value)) all.set(`label ${name}`, shown(value));
  }
  return all;
}

/** Names of the settings in which specs differ. @param {Map<string, string>[]} all @returns {string[]} */
export function differing(all) {
  const names = new Set(all.flatMap((one) => [...one.keys()]));
  return [...names].filter((name) => new Set(all.map((one) => one.get(name) ?? "")).size > 1);
}
