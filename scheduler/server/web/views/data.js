// @ts-check
/** What the cluster's store has: data sets, weights, and their versions. */
import { call, callAll } from "../api.js";
import { attempt, note } from "../layout.js";
import { Link, go } from "../router.js";
import { bytes, clock } from "../units.js";
import { html, useEffect, useState } from "../vendor/preact.js";
import { confirm } from "./confirm.js";
import { mayChange } from "./job_parts.js";

/** Of a version's id: as many digits as name it everywhere. */
export const DIGITS = 12;

/** Where each kind is, what it is called, and how it comes there. @type {Record<string, { path: string, name: string, push: string, use: string }>} */
export const KINDS = {
  DATASET: { path: "/data", name: "Data sets", push: "yard data push DIR", use: "data" },
  WEIGHTS: { path: "/weights", name: "Weights", push: "yard weights push FILE", use: "weights" },
};

/** Milliseconds between two looks at what is stored, of which no stream tells. */
const LOOK = 5000;

/** Does something now and then while somebody can see the page. @param {() => void} read @param {string} key Another one begins anew. */
export function useLook(read, key) {
  useEffect(() => {
    const look = () => document.hidden || read();
    const timer = setInterval(look, LOOK);
    document.addEventListener("visibilitychange", look);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", look);
    };
  }, [key]);
}

/** All versions as they are, read anew by the function as well. @param {object} asked @returns {[any[] | undefined, () => Promise<any>]} */
function useVersions(asked) {
  const [all, setAll] = useState(/** @type {any[] | undefined} */ (undefined));
  const list = async () => {
    const found = await callAll("DatasetService/ListDatasets", asked, "datasets");
    setAll((known) => (JSON.stringify(known) === JSON.stringify(found) ? known : found));
  };
  const read = () => attempt(list);
  const key = JSON.stringify(asked);
  useEffect(() => void read(), [key]);
  // That the scheduler is away is told elsewhere; what is known stays.
  useLook(() => void list().catch(() => {}), key);
  return [all, read];
}

/** Forgets versions once somebody has confirmed it. @param {{ kind: string, name: string, version?: string }} which @returns {Promise<boolean>} Whether they are gone. */
export async function forget({ kind, name, version }) {
  const what = version ? `${name}@${version.slice(0, DIGITS)}` : `${name} with all its versions`;
  if (!(await confirm(`Delete ${what}?`, "Delete it"))) return false;
  const gone = await attempt(() => call("DatasetService/DeleteDataset", { kind, name, version }));
  if (gone) note(`${what} is deleted`, "done");
  return !!gone;
}

/** @param {{ one: any }} props */
export function VersionLink({ one }) {
  return html`<${Link} to=${`${KINDS[one.kind].path}/${one.name}/${one.version}`} class="mono">${one.version.slice(0, DIGITS)}<//>`;
}

/** Leads to a job that takes it. @param {{ one: any }} props */
export function Train({ one }) {
  const { use } = KINDS[one.kind];
  const label = `Train ${use === "data" ? "on" : "from"} ${one.name}@${one.version.slice(0, DIGITS)}`;
  return html`<${Link} to=${`/new?${use}=${one.name}@${one.version.slice(0, DIGITS)}`} class="button" aria-label=${label}>Train<//>`;
}

/** @param {{ all: any[], caller: any, names: boolean, onGone: () => void }} props `names`: a row for each name, with its newest version. */
function Versions({ all, caller, names, onGone }) {
  /** @type {Map<string, any[]>} */
  const groups = new Map();
  for (const one of all) {
    const key = names ? one.name : one.version;
    groups.set(key, [...(groups.get(key) || []), one]);
  }
  const rows = [...groups.values()].map((same) => ({ one: same.find((version) => version.newest) || same[0], same }));
  const remove = (/** @type {any} */ one) => async () => {
    if (await forget({ kind: one.kind, name: one.name, version: names ? undefined : one.version })) onGone();
  };
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Versions"><table class="versions">
    <thead><tr>
      ${names && html`<th>Name</th>`}<th>${names ? "Newest" : "Version"}</th>${names && html`<th class="number">Versions</th>`}
      <th class="number">Files</th><th class="number">Size</th><th>Of</th><th>Pushed</th><th>Description</th><th><span class="skip">Orders</span></th>
    </tr></thead>
    <tbody>
      ${rows.map(
        ({ one, same }) => html`<tr key=${one.name + one.version}>
          ${names && html`<th scope="row"><${Link} to=${`${KINDS[one.kind].path}/${one.name}`}>${one.name}<//></th>`}
          <td><${VersionLink} one=${one} /> ${!names && one.newest && html`<span class="pill accent">newest</span>`}</td>
          ${names && html`<td class="number" data-name="versions">${same.length}</td>`}
          <td class="number" data-name="files">${Number(one.files || 0).toLocaleString()}</td>
          <td class="number">${bytes(one.sizeBytes || 0)}</td>
          <td>${one.user}</td>
          <td title=${new Date(one.createTime).toLocaleString()}>${clock(one.createTime)}</td>
          <td class="description">${one.description}</td>
          <td class="deeds">${caller.role !== "VIEWER" && html`<${Train} one=${one} />`}
            ${mayChange(caller, one) && html`<button type="button" class="plain" aria-label=${`Delete ${one.name}${names ? "" : `@${one.version.slice(0, DIGITS)}`}`} onClick=${remove(one)}>Delete</button>`}
          </td>
        </tr>`,
      )}
    </tbody>
  </table></div>`;
}

/** @param {{ caller: any }} props */
export function Data({ caller }) {
  const [all, read] = useVersions({});
  return html`<div class="head"><h1>Data</h1></div>
    ${all &&
    Object.entries(KINDS).map(([kind, { name, push }]) => {
      const own = all.filter((one) => one.kind === kind);
      return html`<section class="store" key=${kind} aria-label=${name}>
        <h2>${name} <span class="muted">${new Set(own.map((one) => one.name)).size || ""}</span></h2>
        ${own.length
          ? html`<${Versions} all=${own} caller=${caller} names onGone=${read} />`
          : html`<p class="muted">None yet. <code>${push}</code> stores some.</p>`}
      </section>`;
    })}`;
}

/** All versions of a name. @param {string} kind */
const ofName = (kind) =>
  /** @param {{ params: Record<string, string>, caller: any }} props */
  function Name({ params, caller }) {
    const { name } = params;
    const [all, read] = useVersions({ kind, name });
    const { path, name: title, push } = KINDS[kind];
    return html`<p class="trail"><${Link} to="/data">${title}<//></p>
      <div class="head"><h1>${name}</h1></div>
      ${all &&
      (all.length
        ? html`<${Versions} all=${all} caller=${caller} onGone=${async () => (await read(), all.length < 2 && go("/data"))} />`
        : html`<p class="muted">There is none of this name under <code>${path}</code>. <code>${push} --name ${name}</code> stores it.</p>`)}`;
  };

export const DataName = ofName("DATASET");
export const WeightsName = ofName("WEIGHTS");
