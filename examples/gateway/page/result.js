// Results: decoded, as a table with sums, as a chart.

import { html, number, svg } from "./dom.js";

const ROWS_SHOWN = 200;
const MOST_BARS = 12;

/** Loads the `apache-arrow` package, if the gateway serves it. */
export async function loadArrow(url) {
  if (!url) return null;
  const loaded = new Promise((done) => {
    const script = html("script", { src: url });
    script.onload = () => done(true);
    script.onerror = () => done(false);
    document.head.append(script);
  });
  return (await loaded) ? (globalThis.Arrow ?? null) : null;
}

/** A result from an Arrow stream. */
export function fromArrow(Arrow, stream, columns) {
  const table = Arrow.tableFromIPC(stream);
  const names = table.schema.fields.map((field) => field.name);
  const vectors = names.map((_, index) => table.getChildAt(index));
  return new Result(names, columns, table.numRows, (row, column) => vectors[column].get(row));
}

/** A result from JSON rows. */
export function fromRows(rows, names, columns) {
  return new Result(names, columns, rows.length, (row, column) => rows[row][column]);
}

class Result {
  constructor(names, known, length, value) {
    const byName = new Map(known.map((column) => [column.name, column]));
    this.columns = names.map((name) => byName.get(name) ?? { name, type: "text", additive: false });
    this.length = length;
    this.value = value;
  }

  /** Sums by column name. Whole numbers are added as such, however large they get. */
  sums() {
    const sums = new Map();
    this.columns.forEach((column, index) => {
      if (!column.additive) return;
      let sum = 0n;
      for (let row = 0; row < this.length; row++) sum += BigInt(this.value(row, index) ?? 0);
      sums.set(column.name, sum);
    });
    return sums;
  }

  /** The last additive column by the first text column with few values; rows are counted where none is. */
  groups() {
    const measure = this.columns.findLastIndex((column) => column.additive);
    for (const [index, column] of this.columns.entries()) {
      if (column.type !== "text") continue;
      const groups = new Map();
      for (let row = 0; row < this.length && groups.size <= MOST_BARS; row++) {
        const key = String(this.value(row, index) ?? "none").trim();
        const amount = measure < 0 ? 1 : Number(this.value(row, measure) ?? 0);
        groups.set(key, (groups.get(key) ?? 0) + amount);
      }
      if (groups.size > 0 && groups.size <= MOST_BARS) {
        const what = measure < 0 ? "rows" : this.columns[measure].name;
        return { title: `${what} by ${column.name}`, groups: [...groups].sort() };
      }
    }
    return null;
  }
}

const cell = (value, column) => {
  if (value === null || value === undefined) return html("td", { class: "null" }, "–");
  if (column.type === "text") return html("td", {}, String(value).trim());
  const shown = column.name === "id" ? String(value) : number(value);
  return html("td", { class: "number" }, shown);
};

/** The first rows and the sums of all. */
export function table(result) {
  const kind = (column) => (column.type === "text" ? "" : "number");
  const head = result.columns.map((column) => html("th", { scope: "col", class: kind(column) }, column.name));
  const rows = [];
  for (let row = 0; row < Math.min(result.length, ROWS_SHOWN); row++) {
    rows.push(html("tr", {}, ...result.columns.map((column, index) => cell(result.value(row, index), column))));
  }
  const sums = result.sums();
  const foot = result.columns.map((column, index) => {
    const sum = sums.get(column.name);
    if (sum !== undefined) {
      return html("td", { class: "number", "data-sum": column.name }, number(sum));
    }
    return index === 0 ? html("th", { scope: "row" }, "Sum") : html("td", {});
  });
  const shown = Math.min(result.length, ROWS_SHOWN);
  const count = shown < result.length ? `, the first ${number(shown)} shown` : "";
  const caption = `${number(result.length)} ${result.length === 1 ? "row" : "rows"}${count}`;
  const grid = html(
    "table",
    { "data-rows": result.length },
    html("caption", { class: "hidden" }, caption),
    html("thead", {}, html("tr", {}, ...head)),
    html("tbody", {}, ...rows),
    sums.size > 0 ? html("tfoot", {}, html("tr", {}, ...foot)) : undefined,
  );
  return [
    html("p", { class: "quiet" }, caption),
    html("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Rows of the result" }, grid),
  ];
}

/** Bars, one for each group, drawn for `width` pixels so that the text keeps its size. */
export function chart(result, width) {
  const grouped = result.groups();
  if (!grouped) return [];
  const { title, groups } = grouped;
  const [row, left, right] = [26, 84, 96];
  const most = Math.max(...groups.map(([, value]) => value), 1);
  const bars = groups.map(([name, value], index) => {
    const length = Math.max((value / most) * (width - left - right), 1);
    const y = index * row;
    return svg(
      "g",
      {},
      svg("text", { x: left - 8, y: y + 17, "text-anchor": "end", class: "label" }, name),
      svg("rect", { x: left, y: y + 4, width: length, height: row - 8, rx: 3, class: "bar" }),
      svg("text", { x: left + length + 6, y: y + 17 }, number(value)),
    );
  });
  const said = groups.map(([name, value]) => `${name} ${number(value)}`).join(", ");
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${width} ${groups.length * row}`, role: "img", "aria-label": `${title}: ${said}` },
    ...bars,
  );
  return [html("figure", {}, html("figcaption", {}, title), picture)];
}
