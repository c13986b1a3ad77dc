// @ts-check
/** The scheduler's time: what it says of ends and starts is by its clock, and this machine's may be wrong. */

/** Milliseconds by which clocks may differ that say whole seconds. */
const NEAR = 2000;

/** Milliseconds that the scheduler's clock is ahead of this one. */
let ahead = 0;

/** Learns from an answer what time it is. @param {string | null} date Such as `Tue, 01 Dec 2026 10:00:00 GMT`. */
export function learn(date) {
  const found = Date.parse(date || "") - Date.now();
  if (Math.abs(found - ahead) > NEAR) ahead = found;
}

/** Milliseconds since 1970, by the scheduler's clock. */
export function now() {
  return Date.now() + ahead;
}
