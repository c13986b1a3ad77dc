// @ts-check
/** Calls of the API, as JSON: the same methods that `yard` and scripts call. */
import { learn } from "./time.js";

/** A violation of one field of a message. @typedef {{ field: string, description: string }} Violation */

/** A call that was refused, in the server's words. */
export class ApiError extends Error {
  /** @param {number} status @param {{ code?: string, message?: string, details?: { type: string, debug?: any }[] }} body */
  constructor(status, body) {
    super(body.message || `the scheduler answered with status ${status}`);
    this.name = "ApiError";
    /** As in `not_found`. */
    this.code = body.code || "unknown";
    this.details = body.details || [];
  }

  /** Every field that is wrong. @returns {Violation[]} */
  get violations() {
    return this.details.flatMap((detail) => detail.debug?.fieldViolations || []);
  }

  /** As in `TOKEN_EXPIRED`. @returns {string} */
  get reason() {
    return this.details.find((detail) => detail.type === "google.rpc.ErrorInfo")?.debug?.reason || "";
  }

  /** Where the leader is, if a standby says so. @returns {string} */
  get leader() {
    return this.details.map((detail) => detail.debug?.metadata?.leader).find(Boolean) || "";
  }

  /** Whether another scheduler leads, or will. */
  get isStandby() {
    return this.reason === "NOT_LEADER";
  }

  /** Whether a token would help: none that counts came, or so many wrong ones that the scheduler looks at no more. */
  get needsLogin() {
    return this.code === "unauthenticated" || this.reason === "TOO_MANY_WRONG_TOKENS";
  }
}

/** The scheduler cannot be reached. */
export class Unreachable extends Error {}

/** Whose the jobs are that are made here, where the scheduler asks nobody who they are; else it knows itself. */
let name = "";

/** Takes the name that this browser keeps, or says another one. @param {string} [own] @returns {string} */
export function nameMyself(own) {
  try {
    if (own !== undefined) localStorage.setItem("user", own);
    name = localStorage.getItem("user") || "";
  } catch {
    // It then lasts as long as the page.
    name = own ?? name;
  }
  return name;
}

/** @type {(error: ApiError) => void} */
let onUnauthenticated = () => {};

/** Is told of each call that nobody is known for. @param {(error: ApiError) => void} listener */
export function setUnauthenticated(listener) {
  onUnauthenticated = listener;
}

/**
 * Asks by HTTP, and reads JSON.
 * @param {string} path @param {RequestInit} options @returns {Promise<any>}
 */
async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (cause) {
    if (options.signal?.aborted) throw cause;
    throw new Unreachable("the scheduler cannot be reached");
  }
  learn(response.headers.get("date"));
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new ApiError(response.status, body);
  return body;
}

/**
 * Calls a method such as `JobService/ListJobs`.
 * @param {string} method @param {object} [message] @param {{ signal?: AbortSignal }} [options]
 * @returns {Promise<any>} The answer; fields with default values are left out, 64-bit integers are strings.
 */
export async function call(method, message = {}, { signal } = {}) {
  /** @type {Record<string, string>} */
  const headers = { "content-type": "application/json", "connect-protocol-version": "1" };
  if (name) headers["trainyard-user"] = name;
  try {
    return await ask(`/trainyard.v1.${method}`, { method: "POST", headers, body: JSON.stringify(message), signal });
  } catch (error) {
    if (error instanceof ApiError && error.needsLogin) onUnauthenticated(error);
    throw error;
  }
}

/** Every item of a list that comes in pages. @param {string} method @param {object} message @param {string} field */
export async function callAll(method, message, field, most = 5000) {
  /** @type {any[]} */
  const all = [];
  let pageToken = "";
  do {
    const answer = await call(method, { ...message, pageToken, pageSize: 1000 });
    all.push(...(answer[field] || []));
    pageToken = answer.nextPageToken || "";
  } while (pageToken && all.length < most);
  return all;
}

/** The browser's other tabs, which have the same cookie. */
const tabs = new BroadcastChannel("session");

/** Is told when somebody logs in or out in another tab. @param {(what: "in" | "out") => void} listener */
export function onSession(listener) {
  tabs.onmessage = ({ data }) => listener(data);
}

/** The token becomes a cookie that scripts cannot read. @param {string} token */
export async function logIn(token) {
  const headers = { "content-type": "application/json" };
  const caller = await ask("/session", { method: "POST", headers, body: JSON.stringify({ token }) });
  tabs.postMessage("in");
  return caller;
}

export async function logOut() {
  await ask("/session", { method: "DELETE" });
  tabs.postMessage("out");
}
