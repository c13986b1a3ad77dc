// @ts-check
/** How the page is put together: who looks at it, and which view they see. */
import { ApiError, Unreachable, call, setUnauthenticated } from "./api.js";
import { later } from "./later.js";
import { Layout } from "./layout.js";
import { start, stop } from "./live.js";
import { Login } from "./login.js";
import { setRoutes, useRoute } from "./router.js";
import { html, render, useEffect, useState } from "./vendor/preact.js";

const data = () => import("./views/data.js");
const version = () => import("./views/version.js");
// A view is a line here, a file in views/, and its name in web/assets.rs.
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
  { path: "/new", title: "New job", nav: "New job", view: later(() => import("./views/new_job.js"), "NewJob") },
]);

/** How soon it is asked again who looks, while the scheduler cannot be reached. */
const AGAIN = 2000;

function App() {
  const found = useRoute();
  /** @type {[any, any]} `undefined` while it is not known. */
  const [caller, setCaller] = useState(undefined);
  /** @type {[string | null, any]} Why somebody has to log in. */
  const [why, setWhy] = useState(null);
  const [trouble, setTrouble] = useState("");
  const { route, params, path, query } = /** @type {any} */ (found);

  useEffect(() => {
    setUnauthenticated((error) => {
      stop();
      // Whoever has no token yet needs no word about it.
      setWhy(error.reason === "TOKEN_MISSING" ? "" : error.message);
    });
    const ask = async () => {
      try {
        setCaller(await call("AccessService/WhoAmI"));
        setTrouble("");
        start();
      } catch (error) {
        if (error instanceof ApiError && error.code === "unauthenticated") return;
        setTrouble(error instanceof Error ? error.message : String(error));
        if (error instanceof Unreachable || error instanceof ApiError) setTimeout(ask, AGAIN);
      }
    };
    ask();
  }, []);

  useEffect(() => {
    document.title = route ? `${route.title} · Trainyard` : "Trainyard";
  }, [route]);

  if (why !== null) {
    const enter = (/** @type {any} */ known) => {
      setCaller(known);
      setWhy(null);
      start();
    };
    return html`<${Login} why=${why} onLoggedIn=${enter} />`;
  }
  if (caller === undefined) return html`<header class="bar"><span class="brand">Trainyard</span></header>
    ${trouble && html`<p class="notice" role="alert">${trouble}</p>`}`;
  const shown = route
    ? html`<${route.view} key=${path} params=${params} query=${query} caller=${caller} />`
    : html`<h1>No such page</h1><p class="muted">There is no view at ${path}.</p>`;
  return html`<${Layout} caller=${caller} path=${path} onLoggedOut=${() => setWhy("")}>${shown}<//>`;
}

const root = /** @type {HTMLElement} */ (document.getElementById("app"));
root.replaceChildren();
render(html`<${App} />`, root);
