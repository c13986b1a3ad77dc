// @ts-check
/** How the page is put together: who looks at it, and which view they see. */
import { ApiError, Unreachable, call, setUnauthenticated } from "./api.js";
import { Layout } from "./layout.js";
import { start, stop } from "./live.js";
import { Login } from "./login.js";
import { setRoutes, useRoute } from "./router.js";
import { html, render, useEffect, useState } from "./vendor/preact.js";
import { Cluster } from "./views/cluster.js";
import { Compare } from "./views/compare.js";
import { Data, DataName, WeightsName } from "./views/data.js";
import { Job } from "./views/job.js";
import { NewJob } from "./views/new_job.js";
import { Queue } from "./views/queue.js";
import { DataVersion, WeightsVersion } from "./views/version.js";

// A view is a line here, a file in views/, and its name in web/assets.rs.
setRoutes([
  { path: "/", title: "Cluster", nav: "Cluster", view: Cluster },
  { path: "/jobs", title: "Queue", nav: "Queue", view: Queue },
  { path: "/jobs/:id", title: "Job", view: Job },
  { path: "/compare", title: "Compare", nav: "Compare", view: Compare },
  { path: "/data", title: "Data", nav: "Data", view: Data },
  { path: "/data/:name", title: "Data", view: DataName },
  { path: "/data/:name/:version", title: "Data", view: DataVersion },
  { path: "/weights/:name", title: "Weights", view: WeightsName },
  { path: "/weights/:name/:version", title: "Weights", view: WeightsVersion },
  { path: "/new", title: "New job", nav: "New job", view: NewJob },
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
