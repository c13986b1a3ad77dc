// @ts-check
/** What is around every view: the bar with the navigation, the state of the connection, notes of what went wrong. */
import { ApiError, logOut } from "./api.js";
import { useCluster } from "./live.js";
import { Link, navigation } from "./router.js";
import { html, useEffect, useState } from "./vendor/preact.js";

/** The themes, each with its sign. @type {Record<string, string>} */
const THEMES = { system: "◐", light: "☀", dark: "☾" };

/** The theme, kept by this browser. */
function useTheme() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme || "system");
  const next = () => {
    const names = Object.keys(THEMES);
    const chosen = names[(names.indexOf(theme) + 1) % names.length];
    if (chosen === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    try {
      localStorage.setItem("theme", chosen);
    } catch {
      // It then lasts as long as the page.
    }
    setTheme(chosen);
  };
  return { theme, next };
}

/** @type {(note: { text: string, kind: string }) => void} */
let tell = () => {};

/** Says something at the edge of the page for a while. @param {string} text @param {"error" | "done"} [kind] */
export function note(text, kind = "error") {
  tell({ text, kind });
}

/** Does something, and says what went wrong. @param {() => Promise<any>} action */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    if (!(error instanceof Error && error.name === "AbortError")) note(error instanceof Error ? error.message : String(error));
    return undefined;
  }
}

function Notes() {
  const [notes, setNotes] = useState(/** @type {any[]} */ ([]));
  const drop = (/** @type {number} */ id) => setNotes((/** @type {any[]} */ all) => all.filter((one) => one.id !== id));
  useEffect(() => {
    let count = 0;
    tell = (one) => {
      const id = ++count;
      setNotes((/** @type {any[]} */ all) => [...all.slice(-3), { ...one, id }]);
      setTimeout(drop, one.kind === "done" ? 4000 : 15000, id);
    };
  }, []);
  return html`<div class="notes" role="status" aria-live="polite">
    ${notes.map(
      (/** @type {any} */ one) => html`<div class=${`note ${one.kind}`} key=${one.id}>
        <span>${one.text}</span>
        <button type="button" class="plain" aria-label=${`Close: ${one.text}`} onClick=${() => drop(one.id)}>×</button>
      </div>`,
    )}
  </div>`;
}

/** The same view of the scheduler that leads; null where that is nowhere else. @param {string} leader */
function there(leader) {
  const base = URL.canParse(leader) ? new URL(leader) : null;
  if (!base || !/^https?:$/.test(base.protocol) || base.origin === location.origin) return null;
  return new URL(location.pathname + location.search, base).href;
}

/** Why nothing is told; of a standby, who leads. @param {{ error: Error }} props */
export function Trouble({ error }) {
  if (!(error instanceof ApiError && error.isStandby)) return html`<p class="notice" role="alert">${error.message}</p>`;
  const to = there(error.leader);
  return html`<p class="notice" role="alert">This scheduler stands by. ${to ? html`The leader is <a href=${to}>${error.leader}</a>` : "It is asked again until one leads."}</p>`;
}

/** How the page hears of the cluster. */
function Connection() {
  const { link } = useCluster();
  const text = { connecting: "connecting…", live: "live", away: "reconnecting…" }[link.state];
  return html`<span class=${`link ${link.state}`} role="status" title=${link.why?.message}><i aria-hidden="true"></i>${text}</span>`;
}

/** @param {{ caller: any, path: string, onLoggedOut: () => void, children: any }} props */
export function Layout({ caller, path, onLoggedOut, children }) {
  const { theme, next } = useTheme();
  const { link } = useCluster();
  const leave = () =>
    attempt(async () => {
      await logOut();
      onLoggedOut();
    });
  // Viewers have no use for what only changes things.
  const nav = navigation().filter((route) => !route.changes || caller?.role !== "VIEWER");
  return html`
    <a class="skip" href="#main">Skip to the content</a>
    <header class="bar">
      <${Link} to="/" class="brand">Trainyard<//>
      ${nav.length > 1 &&
      html`<nav aria-label="Views">
        ${nav.map(
          (route) => html`<${Link} key=${route.path} to=${route.path} aria-current=${isWithin(route.path, path) ? "page" : undefined}>${route.nav}<//>`,
        )}
      </nav>`}
      <span class="grow"></span>
      <${Connection} />
      <button type="button" class="plain" onClick=${next} aria-label=${`Theme: ${theme}`} title=${`Theme: ${theme}`}>
        ${THEMES[theme]}
      </button>
      ${caller?.user &&
      html`<span class="who" title=${(caller.role || "").toLowerCase()}>${caller.user}</span>
        <button type="button" class="plain" onClick=${leave}>Log out</button>`}
    </header>
    ${link.why && html`<${Trouble} error=${link.why} />`}
    <main id="main" tabindex="-1">${children}</main>
    <${Notes} />
  `;
}

/** @param {string} of @param {string} path */
function isWithin(of, path) {
  return of === "/" ? path === "/" : path === of || path.startsWith(`${of}/`);
}
