// @ts-check
/** Views that come when somebody first looks at them, so that a page loads what it shows. */
import { Unreachable, call } from "./api.js";
import { html, useEffect, useState } from "./vendor/preact.js";

/** How soon it is tried again while the scheduler cannot be reached. */
const AGAIN = 2000;

/** Loads the page again once the scheduler answers: browsers keep that a module could not be fetched. @param {AbortSignal} stop */
function loadAgain(stop) {
  setTimeout(async () => {
    const isAway = await call("AccessService/WhoAmI").then(() => false, (error) => error instanceof Unreachable);
    if (stop.aborted) return;
    if (isAway) loadAgain(stop);
    else location.reload();
  }, AGAIN);
}

/**
 * The view of this name in a module, as a component that fetches it.
 * @param {() => Promise<any>} load @param {string} name
 */
export function later(load, name) {
  /** @type {any} */
  let view;
  /** Has it come before it is drawn. */
  Later.fetch = () => void load().catch(() => {});
  return Later;
  function Later(/** @type {any} */ props) {
    const [, draw] = useState(false);
    const [isAway, setAway] = useState(false);
    useEffect(() => {
      const stop = new AbortController();
      const come = (/** @type {any} */ module) => {
        view = module[name];
        draw(true);
      };
      const fail = () => {
        setAway(true);
        if (!stop.signal.aborted) loadAgain(stop.signal);
      };
      if (!view) load().then(come, fail);
      return () => stop.abort();
    }, []);
    if (view) return html`<${view} ...${props} />`;
    return isAway ? html`<p class="notice" role="alert">This view comes when the scheduler can be reached again.</p>` : null;
  }
}
