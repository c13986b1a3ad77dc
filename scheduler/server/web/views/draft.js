// @ts-check
/** What somebody has typed into a form and not sent, kept while this tab is open: by user and address. */

/** @param {any} caller */
const key = (caller) => `draft ${caller.user || ""} ${location.pathname}${location.search}`;

/** @param {any} caller @returns {Record<string, string> | null} */
export function draft(caller) {
  try {
    return JSON.parse(sessionStorage.getItem(key(caller)) || "null");
  } catch {
    return null;
  }
}

/** @param {any} caller @param {Record<string, string>} values */
export function keepDraft(caller, values) {
  try {
    sessionStorage.setItem(key(caller), JSON.stringify(values));
  } catch {
    // It then lasts as long as the form.
  }
}

/** @param {any} caller */
export function dropDraft(caller) {
  try {
    sessionStorage.removeItem(key(caller));
  } catch {
    // There was none.
  }
}
