// @ts-check
/** A table that is sorted by the column whose head is clicked. */
import { html, useMemo, useState } from "../vendor/preact.js";
import { figure } from "./chart.js";

/** Rows above which not all are drawn; a row's height; rows that are drawn above and below those in view. */
const [LONG, ROW, AROUND] = [150, 31, 20];

/** A cell is text, a number, nothing, or what it is sorted by with how it is drawn. @typedef {{ key: string, cells: any[] }} Row */

/** @param {any} cell */
const plain = (cell) => (cell && typeof cell === "object" ? cell.value : cell);

/** @param {any} one @param {any} other */
function compare(one, other) {
  // What is not there comes last, whichever way.
  const [first, second] = [plain(one), plain(other)].map((value) => (value === "" ? undefined : value));
  if (first === undefined || second === undefined) return { way: 1, by: Number(first === undefined) - Number(second === undefined) };
  const [a, b] = [Number(first), Number(second)];
  const isNumber = !Number.isNaN(a) && !Number.isNaN(b);
  return { way: 0, by: isNumber ? a - b : String(first).localeCompare(String(second), undefined, { numeric: true }) };
}

/** Rows in the order that `-column` means. @param {Row[]} rows @param {string[]} heads @param {string} sort @returns {Row[]} */
export function sorted(rows, heads, sort) {
  const isDown = sort.startsWith("-");
  const at = heads.indexOf(isDown ? sort.slice(1) : sort);
  if (at < 0) return rows;
  return [...rows].sort((one, other) => {
    const { way, by } = compare(one.cells[at], other.cells[at]);
    return way || !isDown ? by : -by;
  });
}

/** @param {any} cell */
function shown(cell) {
  if (cell && typeof cell === "object" && "view" in cell) return cell.view();
  return typeof cell === "number" ? figure(cell) : cell ?? "–";
}

/**
 * @param {{ label: string, heads: string[], rows: Row[], first?: Row, sort: string, onSort: (sort: string) => void,
 *   names?: Record<string, string>, marked?: string }} props `first` stays at the top; `names` are what heads are called.
 */
export function SortTable({ label, heads, rows, first, sort, onSort, names = {}, marked }) {
  const [top, setTop] = useState(0);
  const column = sort.replace(/^-/, "");
  const click = (/** @type {string} */ head) => onSort(sort === `-${head}` ? head : `-${head}`);
  const numeric = useMemo(() => heads.map((_, at) => rows.some((row) => typeof plain(row.cells[at]) === "number")), [rows]);
  const order = sort.startsWith("-") ? "descending" : "ascending";
  const all = useMemo(() => sorted(rows, heads, sort), [rows, sort]);
  // Of long tables only what is in view is drawn.
  const isLong = all.length > LONG;
  const from = isLong ? Math.max(0, top - AROUND) : 0;
  const until = isLong ? top + 2.5 * AROUND : all.length;
  const room = (/** @type {number} */ count) => count > 0 && html`<tr aria-hidden="true" style=${{ height: `${count * ROW}px` }}></tr>`;
  const line = (/** @type {Row} */ row, /** @type {string} */ kind) => html`<tr key=${row.key} class=${kind}>
    ${row.cells.map((cell, at) => (at ? html`<td key=${at} class=${numeric[at] ? "number" : ""}>${shown(cell)}</td>` : html`<th key=${at} scope="row">${shown(cell)}</th>`))}
  </tr>`;
  return html`<div class="scroll tall" tabindex="0" role="group" aria-label=${label} onScroll=${isLong ? (/** @type {any} */ event) => setTop(Math.floor(event.currentTarget.scrollTop / (10 * ROW)) * 10) : undefined}>
    <table class="sorted" aria-rowcount=${isLong ? all.length : undefined}>
    <thead><tr>${heads.map(
      (head, at) => html`<th key=${head} scope="col" class=${numeric[at] ? "number" : ""} aria-sort=${head === column ? order : undefined}>
        <button type="button" class="plain" onClick=${() => click(head)}>${names[head] ?? head}<span aria-hidden="true">${head === column ? (order === "descending" ? " ↓" : " ↑") : ""}</span></button>
      </th>`,
    )}</tr></thead>
    <tbody>${first && line(first, "whole")}${room(from)}${all.slice(from, until).map((row) => line(row, row.key === marked ? "marked" : ""))}${room(all.length - until)}</tbody>
  </table></div>`;
}
