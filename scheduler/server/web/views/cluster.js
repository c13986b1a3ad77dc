// @ts-check
/** Every machine and GPU: what it is, does and did in the last hour, and the orders that one can give. */
import { call } from "../api.js";
import { attempt } from "../layout.js";
import { put, useCluster } from "../live.js";
import { now } from "../time.js";
import { gib, span } from "../units.js";
import { html, useMemo } from "../vendor/preact.js";
import { confirm } from "./confirm.js";
import { Gpu, Pill, Running, useHistory } from "./gpu.js";
import { RUNS, useJobsThatGoOn } from "./job_lists.js";
import { jobName } from "./job_parts.js";

/** @type {Map<string, any>} */
const NONE = new Map();

/** Whether somebody may order things of machines. @param {any} caller */
const mayOrder = (caller) => !caller.role || caller.role === "ADMIN" || caller.role === "USER";

/** Gives an order; its answer is the machine as it is then. @param {string} method @param {object} message */
const order = (method, message) => attempt(async () => put(await call(`ClusterService/${method}`, message)));

/**
 * Whether somebody wants jobs to leave where they run; nobody is asked where none does.
 * @param {string} question @param {string} action @param {any[]} places GPUs and slots. @param {Map<string, any>} jobs
 */
async function mayLeave(question, action, places, jobs) {
  const names = places.flatMap(({ jobId }) => (jobId ? [jobName(jobs.get(jobId) || { id: jobId })] : []));
  return !names.length || confirm(`${question} ${names.join(", ")} will be saved and go elsewhere.`, action);
}

/** @param {{ caller: any }} props */
export function Cluster({ caller }) {
  const { agents, link } = useCluster();
  const jobs = useJobsThatGoOn(RUNS) || NONE;
  /** @type {any[]} */
  const machines = useMemo(() => [...agents.values()].sort((one, other) => one.name.localeCompare(other.name)), [agents]);
  const gpus = machines.flatMap((machine) => machine.gpus || []);
  const count = (/** @type {(status: string) => boolean} */ is) => gpus.filter((gpu) => is(gpu.status)).length;
  const figures = [
    ["machines", machines.length],
    ["GPUs", gpus.length],
    ["free", count((status) => status === "free")],
    ["busy", count((status) => status === "busy")],
    ["taking no job", count((status) => status !== "free" && status !== "busy")],
  ];
  // Until somebody tells of machines there are not none, but nobody knows.
  const isKnown = machines.length > 0 || link.state === "live";
  return html`
    <div class="head">
      <h1>Cluster</h1>
      ${isKnown &&
      html`<dl class="figures">
        ${figures.map(([name, value]) => html`<div key=${name}><dd>${value}</dd><dt>${name}</dt></div>`)}
      </dl>`}
    </div>
    ${isKnown && !machines.length && html`<p class="muted empty">No machine has joined yet.</p>`}
    ${machines.map(
      (machine) => html`<${Machine} key=${machine.id} machine=${machine} jobs=${jobs} mayOrder=${mayOrder(caller)} />`,
    )}
  `;
}

/** @param {{ machine: any, jobs: Map<string, any>, mayOrder: boolean }} props */
function Machine({ machine, jobs, mayOrder: may }) {
  const history = useHistory(machine);
  const gpus = machine.gpus || [];
  const slots = machine.cpuSlots || [];
  const isAway = machine.state !== "CONNECTED";
  const seen = isAway && machine.lastSeenTime ? (now() - Date.parse(machine.lastSeenTime)) / 1000 : 0;
  /** @type {string[]} */
  const notices = machine.notices || [];
  const drain = async () => {
    if (await mayLeave(`Drain ${machine.name}?`, "Drain it", [...gpus, ...slots], jobs)) order("DrainAgent", { agent: machine.id });
  };
  const reserve = async (/** @type {any} */ gpu, /** @type {string} */ span) => {
    const question = `Reserve GPU ${gpu.index || 0} of ${machine.name}?`;
    if (await mayLeave(question, "Reserve it", [gpu], jobs)) order("ReserveGpus", { agent: machine.id, gpus: [gpu.uuid], span });
  };
  const facts = [
    machine.memoryTotalMib && `${gib(machine.memoryTotalMib)} GiB memory`,
    machine.driverVersion && `driver ${machine.driverVersion}`,
    isAway && `last seen ${span(seen)} ago`,
  ].filter(Boolean);
  return html`<section class="machine" aria-labelledby=${machine.id}>
    <header>
      <h2 id=${machine.id}>${machine.name}</h2>
      ${machine.status !== "connected" && html`<${Pill} status=${machine.status} />`}
      <span class="muted facts">${facts.join(" · ")}</span>
      <span class="grow"></span>
      ${may &&
      (machine.drained
        ? html`<button type="button" aria-label=${`Resume ${machine.name}`} onClick=${() => order("ResumeAgent", { agent: machine.id })}>Resume</button>`
        : html`<button type="button" aria-label=${`Drain ${machine.name}`} onClick=${drain}>Drain</button>`)}
    </header>
    ${notices.map((text) => html`<p class="notice" key=${text}>${text}</p>`)}
    <ul class="tiles">
      ${gpus.map(
        (/** @type {any} */ gpu) => html`<${Gpu} key=${gpu.uuid} gpu=${gpu} machine=${machine} may=${may} order=${order} reserve=${reserve}
          job=${jobs.get(gpu.jobId)} history=${history.get(gpu.uuid) || []} />`,
      )}
      ${slots.map(
        (/** @type {any} */ slot) => html`<li class="tile slot" key=${slot.index || 0}>
          <div class="top"><h3>CPU slot ${slot.index || 0}</h3><${Pill} status=${slot.status} /></div>
          ${slot.statusReason && html`<p class="reason">${slot.statusReason}</p>`}
          ${slot.jobId && html`<${Running} id=${slot.jobId} job=${jobs.get(slot.jobId)} />`}
        </li>`,
      )}
    </ul>
  </section>`;
}
