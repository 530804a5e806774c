// Who waits: position, when each is likely to start, and why.

import { getJson } from "./api.js";
import { Table, duration, jobButton, make, mark, number, plural, say } from "./format.js";
import { PRIORITIES } from "./store.js";

const EVERY_MS = 30000, FUTURES = 60;

export class Queue {
  constructor(store, open) {
    this.store = store;
    this.body = document.querySelector("#queue .body");
    this.note = document.getElementById("queue-note");
    this.table = new Table("Jobs that wait", [
      ["", "num", (_, k) => k + 1],
      ["job", "", (w) => make("span", mark(w.priority), jobButton(w.id, w.name, open), make("span.unseen", ` ${PRIORITIES[w.priority]}`))],
      ["tenant", "opt", (w) => store.tenant(w.tenant)],
      ["asks for", "", (w) => (w.gpus ? `${w.workers} × ${plural(w.gpus, "GPU")}` : plural(w.workers, "worker"))],
      ["waits", "num", (w) => duration(store.now() - w.submit_ms)],
      ["starts in", "num.band", (w) => this.band(w.id)],
      ["because", "grow", (w) => w.why],
    ]);
    this.table.element.classList.add("stack");
    this.none = make("p.none", "Nobody waits.");
    this.body.append(this.table.element, this.none);
    this.starts = {};  // by job: the twin's band, or null
    this.askedMs = -EVERY_MS;
    store.on("queue totals", () => this.draw());
    setInterval(() => this.draw(), 1000);
  }

  /** From when to when eight of ten futures let a job start. */
  band(id) {
    const band = this.starts[id];
    if (band === undefined) return "…";
    if (band === null) return "not foreseen";
    const [first, last] = [band.p10, band.p90].map((ms) => (ms === null ? "?" : duration(ms - this.store.now())));
    return `${first} – ${last}`;
  }

  /** Ask the twin, now and then, while somebody waits and somebody looks. */
  async ask() {
    if (document.hidden || performance.now() - this.askedMs < EVERY_MS) return;
    this.askedMs = performance.now();
    try {
      this.starts = (await getJson(`/starts?futures=${FUTURES}`)).items;
      this.draw();
    } catch { /* it is asked again; until then nothing is foreseen */ }
  }

  draw() {
    const { order, waiting, totals } = this.store;
    const items = order.map((row) => waiting.get(row)).filter(Boolean);
    if (items.length) this.ask();
    this.table.element.hidden = !items.length;
    this.none.hidden = items.length > 0;
    this.table.show(items, (w) => `${w.row}/${w.id}`);
    const all = totals?.queued ?? items.length;
    say(this.note, all > items.length ? `the first ${number(items.length)} of ${number(all)}` : all ? `${plural(all, "job")}` : "");
  }
}
