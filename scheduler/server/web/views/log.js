// @ts-check
/** A log that follows, until somebody reads. */
import { html, useEffect, useRef, useState } from "../vendor/preact.js";

/** @param {{ lines: import("./job_events.js").LogLine[] }} props */
export function Log({ lines }) {
  /** @type {[typeof lines | null, any]} What is shown while it does not follow. */
  const [held, setHeld] = useState(/** @type {typeof lines | null} */ (null));
  const [onlyBad, setOnlyBad] = useState(false);
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const shown = held || lines;
  const last = shown.at(-1)?.cursor;
  useEffect(() => {
    if (!held && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [last, held, onlyBad]);
  const hold = () => setHeld([...lines]);
  const scrolled = () => {
    const own = box.current;
    if (!own) return;
    const isAtEnd = own.scrollHeight - own.scrollTop - own.clientHeight < 30;
    if (!held && !isAtEnd) hold();
  };
  const missed = held ? lines.filter((line) => Number(line.cursor) > Number(last || 0)).length : 0;
  const bad = (/** @type {any} */ line) => line.tone === "warn" || line.tone === "bad";
  return html`<section class="panel" aria-labelledby="log">
    <header><h2 id="log">Log</h2><span class="grow"></span>
      <label><input type="checkbox" checked=${onlyBad} onChange=${() => setOnlyBad(!onlyBad)} /> warnings only</label>
      <button type="button" onClick=${() => (held ? setHeld(null) : hold())}>${held ? `Follow${missed ? ` (${missed} new)` : ""}` : "Pause"}</button>
    </header>
    <div class="log" ref=${box} onScroll=${scrolled} role="log" aria-live="off" aria-label="Log" tabindex="0">
      ${(onlyBad ? shown.filter(bad) : shown).map(
        (line) => html`<div key=${line.cursor} class=${line.tone}><time datetime=${line.time}>${new Date(line.time).toLocaleTimeString([], { hour12: false })}</time><span>${line.text}</span></div>`,
      )}
      ${!shown.length && html`<p class="muted">–</p>`}
    </div>
  </section>`;
}
