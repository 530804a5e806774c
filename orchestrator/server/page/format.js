// Numbers and elements: text only ever gets into the page as text.

const two = (n) => String(n).padStart(2, "0");

export function duration(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)}`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${two(Math.floor(s / 60) % 60)}`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}
export function clock(ms) {
  const d = new Date(ms);
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}
export const number = (x) => (Math.abs(x) >= 1000 ? Math.round(x).toLocaleString("en") : Number.isInteger(x) ? String(x) : x.toFixed(Math.abs(x) < 10 ? 1 : 0));
export const percent = (x) => `${Math.round(100 * x)} %`;
export const plural = (n, one) => `${number(n)} ${one}${n === 1 ? "" : "s"}`;

/** An element: `make("td.num", "3")`, with properties and children or text. */
export function make(what, ...content) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const part of content) {
    if (part === null || part === undefined) continue;
    if (part instanceof Node || typeof part !== "object") element.append(part);
    else for (const [name, value] of Object.entries(part)) {
      if (name in element) element[name] = value; else element.setAttribute(name, value);
    }
  }
  return element;
}

/** Set a text, if it is another one: the browser lays out what is touched. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * A table whose rows stay the same elements as long as they are about the same thing.
 * Columns are [heading, class, cell]: a cell is a text made anew every time, or an element that is made once.
 */
export class Table {
  #rows = new Map();

  constructor(caption, columns) {
    this.columns = columns;
    this.body = make("tbody");
    const head = columns.map(([heading, kind]) => make(`th${kind ? `.${kind}` : ""}`, heading, { scope: "col" }));
    this.element = make("table", make("caption.unseen", caption), make("thead", make("tr", ...head)), this.body);
  }

  show(items, key) {
    const kept = new Map();
    items.forEach((item, k) => {
      const name = key(item);
      const row = this.#rows.get(name) ?? this.#fresh();
      kept.set(name, row);
      this.columns.forEach(([, , cell], c) => {
        if (row.cells[c].firstElementChild) return;
        const value = cell(item, k);
        if (value instanceof Node) row.cells[c].replaceChildren(value); else say(row.cells[c], String(value));
      });
      if (this.body.rows[k] !== row) this.body.insertBefore(row, this.body.rows[k] ?? null);
    });
    for (const [name, row] of this.#rows) if (!kept.has(name)) row.remove();
    this.#rows = kept;
  }

  #fresh() {
    return make("tr", ...this.columns.map(([, kind]) => make(`td${kind ? `.${kind}` : ""}`)));
  }
}

/** A button that opens a job. */
export function jobButton(id, name, open) {
  return make("button", name || id, { type: "button", title: id, onclick: () => open(id) });
}
export const mark = (priority) => make(`i.mark.p${priority}`, { ariaHidden: "true" });
