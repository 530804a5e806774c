// Who waits: position, when each is likely to start, as a band on one axis for all, and why.

import { getJson } from "./api.js";
import { Table, duration, jobButton, make, mark, number, plural, say } from "./format.js";
import { PRIORITIES } from "./store.js";

const EVERY_MS = 30000, FUTURES = 60, MINUTE_MS = 60000;
const AXES = [1, 2, 5, 10, 20, 30, 60, 120, 180, 360, 720, 1440, 2880, 4320, 10080, 20160, 43200].map((minutes) => minutes * MINUTE_MS);

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
      ["starts in", "band", (w) => this.band(w.id).element],
      ["because", "grow", (w) => w.why],
    ]);
    this.table.element.classList.add("stack");
    this.axis = make("span.axis");
    this.table.element.tHead.rows[0].cells[5].append(this.axis);
    this.bands = new Map(); // by job: what shows when it starts
    this.none = make("p.none", "Nobody waits.");
    this.body.append(this.table.element, this.none);
    this.starts = {};  // by job: the twin's band, or null
    this.askedMs = -EVERY_MS;
    store.on("queue totals", () => this.draw());
    setInterval(() => this.draw(), 1000);
  }

  /** What shows when a job starts: a text, and a band with its median. */
  band(id) {
    if (!this.bands.has(id)) {
      const text = make("span", "…"), range = make("i"), median = make("u");
      const track = make(".track", range, median, { ariaHidden: "true", hidden: true });
      this.bands.set(id, { element: make(".when", text, track), text, range, median, track });
    }
    return this.bands.get(id);
  }

  /** Draw from when to when eight of ten futures let each job start, on one axis. */
  drawBands(items) {
    const now = this.store.now(), after = (ms) => Math.max(ms - now, 0);
    const last = Math.max(...items.map(({ id }) => { const band = this.starts[id]; return band ? after(band.p90 ?? band.p50 ?? band.p10 ?? now) : 0; }));
    const span = AXES.find((ms) => ms >= last) ?? last;
    say(this.axis, last > 0 ? `0 – ${duration(span).replace(" 00", "").replace(" 0 h", "")}` : "");
    for (const { id } of items) {
      const { text, range, median, track } = this.band(id), band = this.starts[id];
      track.hidden = !band;
      if (!band) { say(text, band === null ? "not foreseen" : "…"); continue; }
      const [first, middle, end] = [band.p10, band.p50, band.p90].map((ms) => (ms === null ? null : after(ms)));
      say(text, [first, end].map((ms) => (ms === null ? "?" : duration(ms))).join(" – "));
      const at = (ms) => Math.min((100 * (ms ?? span)) / span, 100);
      range.style.left = `${at(first)}%`;
      range.style.right = `${Math.max(100 - at(end), 0)}%`;
      median.style.left = `calc(${at(middle)}% - 1px)`;
    }
    const kept = new Set(items.map(({ id }) => id));
    for (const id of this.bands.keys()) if (!kept.has(id)) this.bands.delete(id);
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
    this.drawBands(items);
    const all = totals?.queued ?? items.length;
    say(this.note, all > items.length ? `the first ${number(items.length)} of ${number(all)}` : all ? `${plural(all, "job")}` : "");
  }
}
