// @ts-check
/** Views that come when somebody first looks at them, so that a page loads what it shows. */
import { html, useEffect, useState } from "./vendor/preact.js";

/**
 * The view of this name in a module, as a component that fetches it.
 * @param {() => Promise<any>} load @param {string} name
 */
export function later(load, name) {
  /** @type {any} */
  let view;
  return function Later(/** @type {any} */ props) {
    const [, draw] = useState(false);
    const [trouble, setTrouble] = useState("");
    useEffect(() => {
      if (view) return;
      const come = (/** @type {any} */ module) => {
        view = module[name];
        draw(true);
      };
      load().then(come, () => setTrouble("This view cannot be loaded now. Load the page again when the scheduler can be reached."));
    }, []);
    if (view) return html`<${view} ...${props} />`;
    return trouble ? html`<p class="notice" role="alert">${trouble}</p>` : null;
  };
}
