// @ts-check
/** Which view an address shows. */
import { html, useEffect, useState } from "./vendor/preact.js";

/**
 * A view: its component gets `params` of the path and `query`.
 * @typedef {{ path: string, title: string, nav?: string, changes?: boolean, view: any }} Route
 */

/** @type {Route[]} */
let routes = [];

/** @param {Route[]} all */
export function setRoutes(all) {
  routes = all;
}

/** The entries of the navigation. */
export function navigation() {
  return routes.filter((route) => route.nav);
}

/** What a part of an address says; null where it is no text. @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return null;
  }
}

/** @param {string} pattern Such as `/jobs/:id`. @param {string} path */
function match(pattern, path) {
  const [wanted, given] = [pattern.split("/"), path.replace(/(.)\/$/, "$1").split("/")];
  if (wanted.length !== given.length) return null;
  /** @type {Record<string, string>} */
  const params = {};
  for (const [at, part] of wanted.entries()) {
    const text = decoded(given[at]);
    if (part.startsWith(":") && text) params[part.slice(1)] = text;
    else if (part !== text) return null;
  }
  return params;
}

/** @param {string} path */
function find(path) {
  for (const route of routes) {
    const params = match(route.path, path);
    if (params) return { route, params };
  }
  return null;
}

/** Shows another address. @param {string} to @param {{ replace?: boolean }} [how] */
export function go(to, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", to);
  dispatchEvent(new Event("route"));
}

/** The view of the address, which is drawn anew when that changes. */
export function useRoute() {
  const read = () => ({ ...find(location.pathname), path: location.pathname, query: new URLSearchParams(location.search) });
  const [found, setFound] = useState(read);
  useEffect(() => {
    const update = () => setFound(read());
    addEventListener("popstate", update);
    addEventListener("route", update);
    return () => {
      removeEventListener("popstate", update);
      removeEventListener("route", update);
    };
  }, []);
  return found;
}

/** A link inside the page; just its text where there is no such view. @param {any} props */
export function Link({ to, children, ...rest }) {
  if (!find(to.split("?")[0])) return html`<span ...${rest}>${children}</span>`;
  const follow = (/** @type {MouseEvent} */ event) => {
    if (event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    go(to);
  };
  return html`<a href=${to} onClick=${follow} ...${rest}>${children}</a>`;
}
