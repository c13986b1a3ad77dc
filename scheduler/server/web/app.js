// @ts-check
/** How the page is put together: who looks at it, and which view they see. */
import { ApiError, Unreachable, call, nameMyself, onSession, setUnauthenticated } from "./api.js";
import { later } from "./later.js";
import { Layout, Trouble } from "./layout.js";
import { start, stop } from "./live.js";
import { Login } from "./login.js";
import { setRoutes, useRoute } from "./router.js";
import { html, render, useEffect, useRef, useState } from "./vendor/preact.js";

const data = () => import("./views/data.js");
const version = () => import("./views/version.js");
// A view is a line here, and a file in views/.
setRoutes([
  { path: "/", title: "Cluster", nav: "Cluster", view: later(() => import("./views/cluster.js"), "Cluster") },
  { path: "/jobs", title: "Queue", nav: "Queue", view: later(() => import("./views/queue.js"), "Queue") },
  { path: "/jobs/:id", title: "Job", view: later(() => import("./views/job.js"), "Job") },
  { path: "/compare", title: "Compare", nav: "Compare", view: later(() => import("./views/compare.js"), "Compare") },
  { path: "/data", title: "Data", nav: "Data", view: later(data, "Data") },
  { path: "/data/:name", title: "Data", view: later(data, "DataName") },
  { path: "/data/:name/:version", title: "Data", view: later(version, "DataVersion") },
  { path: "/weights/:name", title: "Weights", view: later(data, "WeightsName") },
  { path: "/weights/:name/:version", title: "Weights", view: later(version, "WeightsVersion") },
  { path: "/new", title: "New job", nav: "New job", changes: true, view: later(() => import("./views/new_job.js"), "NewJob") },
]);

/** How soon it is asked again who looks, while the scheduler cannot be reached. */
const AGAIN = 2000;

const ENDED = "Your session has ended";

/** Why the login is shown. @param {ApiError} error @param {boolean} wasIn Whether this page knew somebody. */
function reason(error, wasIn) {
  // Whoever has no token yet needs no word about it.
  const told = error.reason === "TOKEN_MISSING" ? "" : error.message;
  const isOver = wasIn || /^TOKEN_(EXPIRED|INVALID|REVOKED)$/.test(error.reason);
  return isOver ? [ENDED, told].filter(Boolean).join(": ") : told;
}

/** Who looks, and why they have to log in if they do. */
function useCaller() {
  /** @type {[any, any]} `undefined` while it is not known. */
  const [caller, setCaller] = useState(undefined);
  const [why, setWhy] = useState(/** @type {string | null} */ (null));
  const [trouble, setTrouble] = useState(/** @type {Error | null} */ (null));
  const isIn = useRef(false);
  const enter = (/** @type {any} */ known) => {
    isIn.current = true;
    if (!known.user) nameMyself();
    setCaller(known);
    setWhy(null);
    setTrouble(null);
    start();
  };
  const leave = (/** @type {string} */ text) => {
    isIn.current = false;
    stop();
    setCaller(undefined);
    // Several calls may be refused; the first says most.
    setWhy((/** @type {string | null} */ last) => last || text);
  };
  useEffect(() => {
    setUnauthenticated((error) => leave(reason(error, isIn.current)));
    const ask = async () => {
      try {
        enter(await call("AccessService/WhoAmI"));
      } catch (error) {
        if (error instanceof ApiError && error.needsLogin) return;
        setTrouble(/** @type {Error} */ (error));
        if (error instanceof Unreachable || error instanceof ApiError) setTimeout(ask, AGAIN);
      }
    };
    onSession((what) => {
      if (what === "out") return leave(ENDED);
      // Somebody else may look now: what this page has was for the one before.
      stop();
      setCaller(undefined);
      ask();
    });
    ask();
  }, []);
  return { caller, why, trouble, enter, leave };
}

function App() {
  const found = useRoute();
  const { caller, why, trouble, enter, leave } = useCaller();
  const { route, params, path, query } = /** @type {any} */ (found);

  // While it is asked who looks, what they look at is on its way.
  useEffect(() => route?.view.fetch(), []);
  useEffect(() => {
    document.title = route ? `${route.title} · Trainyard` : "Trainyard";
  }, [route]);

  if (why !== null) return html`<${Login} why=${why} onLoggedIn=${enter} />`;
  if (caller === undefined) return html`<header class="bar"><span class="brand">Trainyard</span></header>
    ${trouble && html`<${Trouble} error=${trouble} />`}`;
  const shown = route
    ? html`<${route.view} key=${path} params=${params} query=${query} caller=${caller} />`
    : html`<h1>No such page</h1><p class="muted">There is no view at ${path}.</p>`;
  return html`<${Layout} caller=${caller} path=${path} onLoggedOut=${() => leave("")}>${shown}<//>`;
}

const root = /** @type {HTMLElement} */ (document.getElementById("app"));
root.replaceChildren();
render(html`<${App} />`, root);
