// @ts-check
/** A job, filled in, checked by the scheduler while it is written, and submitted. */
import { ApiError, call, callAll, nameMyself } from "../api.js";
import { attempt } from "../layout.js";
import { useCluster } from "../live.js";
import { go } from "../router.js";
import { bytes, shortId } from "../units.js";
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact.js";
import { draft, dropDraft, keepDraft } from "./draft.js";
import { groupsOf, pathOf, specOf, valuesOf, wrongLabels } from "./job_fields.js";
import { jobName } from "./job_parts.js";
import { Plan } from "./plan.js";

/** Milliseconds after the last key before a job is checked. */
const QUIET = 400;
/** Groups that are open from the start. */
const OPEN = ["Training", "Where and when"];
/** The path stands for any: with it the scheduler says what it takes for granted. */
const NOTHING = { model: "yolov8n", data: "/" };

/** What is asked for by the address. @param {URLSearchParams} query */
const asked = (query) => ({ "train.data": query.get("data") || "", "train.pretrained": query.get("weights") || "" });

/** Draws 128 bits. Hosts without encryption have no other way. */
function draw() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {{ query: URLSearchParams, caller: any }} props */
export function NewJob({ query, caller }) {
  if (caller.role === "VIEWER") return html`<h1>New job</h1><p class="muted">A viewer's token submits no jobs. An admin makes you one that does.</p>`;
  return html`<${Filling} query=${query} caller=${caller} />`;
}

/** @param {{ query: URLSearchParams, caller: any }} props */
function Filling({ query, caller }) {
  const from = query.get("from") || "";
  const [found, setFound] = useState(/** @type {any} */ (null));
  const [stored, setStored] = useState(/** @type {any[]} */ ([]));
  const [lacks, setLacks] = useState("");
  useEffect(() => {
    const stop = new AbortController();
    setFound(null);
    setLacks("");
    attempt(async () => {
      const [usual, source] = await Promise.all([
        call("JobService/SubmitJob", { spec: { train: NOTHING }, validateOnly: true }, stop),
        // Without the job to begin with, there is still a form.
        from ? call("JobService/GetJob", { jobId: from }, stop).catch((error) => void (stop.signal.aborted || setLacks(error.message))) : null,
      ]);
      const groups = groupsOf(usual.job.spec);
      const fields = groups.flatMap(([, all]) => all);
      const before = source ? valuesOf(source.spec, fields) : null;
      const given = Object.fromEntries(Object.entries(asked(query)).filter(([, value]) => value));
      const blank = { "train.model": NOTHING.model, ...before, ...given };
      setFound({ groups, fields, source, before, blank });
    });
    attempt(async () => setStored(await callAll("DatasetService/ListDatasets", {}, "datasets")));
    return () => stop.abort();
  }, [from]);
  return html`<h1>New job</h1>
    ${lacks && html`<p class="notice" role="alert">${lacks}</p>`}
    ${found && html`<${Form} key=${from} ...${found} stored=${stored} caller=${caller} />`}`;
}

/** @typedef {{ problems: Map<string, string>, trouble: string, job: any, plan: any, warnings: string[], isChecked: boolean }} Checked */

/** @type {Checked} */
const UNCHECKED = { problems: new Map(), trouble: "", job: null, plan: null, warnings: [], isChecked: false };

/** What the scheduler says of a job. @param {any} spec @param {boolean} isWorthIt @returns {[Checked, (error: unknown) => void]} */
function useCheck(spec, isWorthIt) {
  const [checked, setChecked] = useState(UNCHECKED);
  const refuse = (/** @type {unknown} */ error) => {
    const violations = error instanceof ApiError ? error.violations : [];
    const problems = new Map(violations.map((one) => [pathOf(one.field), one.description]));
    const trouble = violations.length ? "" : error instanceof Error ? error.message : String(error);
    setChecked({ ...UNCHECKED, problems, trouble, isChecked: true });
  };
  const text = JSON.stringify(spec);
  useEffect(() => {
    if (!isWorthIt) return;
    const stop = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const { job, plan, warnings = [] } = await call("JobService/SubmitJob", { spec, validateOnly: true }, stop);
        setChecked({ ...UNCHECKED, job, plan, warnings, isChecked: true });
      } catch (error) {
        if (!stop.signal.aborted) refuse(error);
      }
    }, QUIET);
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [text, isWorthIt]);
  return [checked, refuse];
}

/** @typedef {import("./job_fields.js").Field} Field */

/** @param {{ groups: [string, Field[]][], fields: Field[], source: any, before: any, blank: any, stored: any[], caller: any }} props */
function Form({ groups, fields, source, before, blank, stored, caller }) {
  const kept = useMemo(() => draft(caller), []);
  const [values, setValues] = useState(kept || blank);
  const [isKept, setKept] = useState(!!kept);
  const [isSent, setSent] = useState(false);
  const request = useRef({ text: "", id: "" });
  const spec = useMemo(() => specOf(values, fields), [values]);
  // Nobody is told of a field that was never looked at.
  const [told, refuse] = useCheck(spec, !!values["train.data"]);
  const wrong = wrongLabels(values.labels || "");
  const checked = wrong ? { ...told, problems: new Map(told.problems).set("labels", wrong), job: null, plan: null, isChecked: true } : told;
  const { agents } = useCluster();
  const models = useMemo(() => [...new Set([...agents.values()].flatMap((agent) => (agent.gpus || []).map((/** @type {any} */ gpu) => gpu.model)))].sort(), [agents]);
  const set = (/** @type {string} */ path, /** @type {string} */ value) =>
    setValues((/** @type {any} */ all) => {
      const next = { ...all, [path]: value };
      keepDraft(caller, next);
      return next;
    });
  const begin = () => {
    dropDraft(caller);
    setValues(blank);
    setKept(false);
  };
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.currentTarget);
    const show = () => setTimeout(() => /** @type {HTMLElement | null} */ (form.querySelector("[aria-invalid]"))?.focus());
    if (wrong) return void show();
    const text = JSON.stringify(spec);
    // The same job again, as after an answer that was lost, is the same request.
    if (request.current.text !== text) request.current = { text, id: draw() };
    setSent(true);
    try {
      const { jobId } = await call("JobService/SubmitJob", { spec, requestId: request.current.id });
      dropDraft(caller);
      go(`/jobs/${jobId}`);
    } catch (error) {
      refuse(error);
      setSent(false);
      show();
    }
  };
  const props = (/** @type {string} */ path) => ({ value: values[path] || "", before: before?.[path], problem: checked.problems.get(path), set });
  const text = (/** @type {string} */ path, /** @type {string} */ name, /** @type {any} */ more = {}) =>
    html`<${Input} field=${{ path, name, kind: "text", usual: "", ...more }} ...${props(path)} />`;
  const names = (/** @type {string} */ kind) => stored.filter((one) => one.kind === kind);
  return html`<form class="newjob" onSubmit=${submit} novalidate>
    <div class="parts">
      ${source && html`<p class="muted">As <b>${jobName(source)}</b> (${shortId(source.id)}); what differs is marked.</p>`}
      ${isKept && html`<p class="muted">As you left it. <button type="button" onClick=${begin}>Begin anew</button></p>`}
      <fieldset class="fields wide">
        <legend>What</legend>
        ${text("train.data", "data", { list: "datasets", hint: "name of a pushed data set, or path of a data.yaml" })}
        <${Input} field=${{ path: "train.model", name: "model", kind: "choice", choices: ["yolov8n", "yolov8s", "yolov8m", "yolov8l", "yolov8x"], usual: "" }} ...${props("train.model")} />
        ${text("train.pretrained", "pretrained", { list: "weights", hint: "none" })}
        ${text("name", "name", { hint: "for people" })}
      </fieldset>
      ${groups.map(
        ([title, all]) => html`<${Group} key=${title} title=${title} fields=${all} values=${values} before=${before} problems=${checked.problems} set=${set} />`,
      )}
      <datalist id="datasets">${names("DATASET").map((one) => html`<${Stored} one=${one} />`)}</datalist>
      <datalist id="weights">
        ${source && html`<option value=${`job:${source.id}`}>${jobName(source)}</option>`}
        ${names("WEIGHTS").map((one) => html`<${Stored} one=${one} />`)}
      </datalist>
      <datalist id="gpus">${models.map((model) => html`<option key=${model} value=${model}></option>`)}</datalist>
    </div>
    <aside aria-label="Plan">
      <${Whose} caller=${caller} />
      <${Plan} checked=${checked} isSent=${isSent} />
    </aside>
  </form>`;
}

/** Whose the job will be; where nobody is asked who they are, one says it once in each browser. @param {{ caller: any }} props */
function Whose({ caller }) {
  const [name, setName] = useState(() => (caller.user ? "" : nameMyself()));
  if (caller.user) return html`<p class="muted">as <b>${caller.user}</b></p>`;
  // Other characters are none to the scheduler.
  const change = (/** @type {any} */ { currentTarget: own }) => setName(nameMyself(own.value.replace(/[^ -~]/g, "").trim()));
  return html`<div class="field"><label for="whose">as</label>
    <input id="whose" value=${name} placeholder="anonymous" maxlength="128" autocomplete="username" spellcheck=${false} onChange=${change} /></div>`;
}

/** A version to choose. @param {{ one: any }} props */
function Stored({ one }) {
  return html`<option value=${`${one.name}@${one.version.slice(0, 12)}`}>
    ${[one.description, bytes(one.sizeBytes), one.newest && "newest"].filter(Boolean).join(" · ")}
  </option>`;
}

/** @param {{ title: string, fields: any[], values: any, before: any, problems: Map<string, string>, set: any }} props */
function Group({ title, fields, values, before, problems, set }) {
  const given = fields.filter((field) => values[field.path]).length;
  const isWrong = fields.some((field) => problems.has(field.path));
  const [isOpened, setOpen] = useState(OPEN.includes(title) || given > 0);
  // What is wrong is seen.
  const isOpen = isOpened || isWrong;
  const toggle = (/** @type {any} */ { currentTarget: own }) => {
    if (isWrong) own.open = true;
    setOpen(own.open);
  };
  return html`<details class="group" open=${isOpen} onToggle=${toggle}>
    <summary><h2>${title}</h2><span class="muted">${given ? `${given} set` : "as usual"}</span></summary>
    ${isOpen &&
    html`<div class="fields">
      ${fields.map(
        (field) => html`<${Input} key=${field.path} field=${field} value=${values[field.path] || ""} before=${before?.[field.path]}
          problem=${problems.get(field.path)} set=${set} />`,
      )}
    </div>`}
  </details>`;
}

/** @param {{ field: any, value: string, before?: string, problem?: string, set: (path: string, value: string) => void }} props */
function Input({ field, value, before, problem, set }) {
  const { path, name, kind, usual, unit } = field;
  const change = (/** @type {any} */ event) => set(path, event.currentTarget.value);
  const differs = before !== undefined && (before || usual) !== (value || usual);
  const id = `f-${path}`;
  const common = { id, value, "aria-invalid": problem ? "true" : undefined, "aria-describedby": problem ? `${id}-wrong` : undefined };
  const choices = kind === "truth" ? ["true", "false"] : field.choices;
  const option = (/** @type {string} */ one, /** @type {string} */ text) => html`<option key=${one} value=${one} selected=${one === value}>${text}</option>`;
  return html`<div class=${`field ${differs ? "differs" : ""}`}>
    <label for=${id}>${name}${unit && html`<span class="muted">${unit}</span>`}</label>
    ${choices
      ? html`<select ...${common} onChange=${change}>${usual && option("", usual)}${choices.filter((/** @type {string} */ one) => one !== usual).map((/** @type {string} */ one) => option(one, one))}</select>`
      : html`<input ...${common} type=${kind === "number" ? "number" : "text"} step="any" placeholder=${field.hint || usual}
          list=${field.list || (path === "resources.gpuModels" ? "gpus" : undefined)} autocomplete="off" spellcheck=${false} onInput=${change} />`}
    ${differs && html`<button type="button" class="plain was" title="Back to this" aria-label=${`was ${before || usual || "empty"}: ${name}`} onClick=${() => set(path, before || "")}>was ${before || usual || "empty"}</button>`}
    ${problem && html`<p class="problem small" id=${`${id}-wrong`}>${problem}</p>`}
  </div>`;
}
