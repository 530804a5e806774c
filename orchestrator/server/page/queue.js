// Who waits: position, and why.

import { Table, duration, jobButton, make, mark, number, plural, say } from "./format.js";
import { PRIORITIES } from "./store.js";

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
      ["because", "grow", (w) => w.why],
    ]);
    this.table.element.classList.add("stack");
    this.none = make("p.none", "Nobody waits.");
    this.body.append(this.table.element, this.none);
    store.on("queue totals", () => this.draw());
    setInterval(() => this.draw(), 1000);
  }

  draw() {
    const { order, waiting, totals } = this.store;
    const items = order.map((row) => waiting.get(row)).filter(Boolean);
    this.table.element.hidden = !items.length;
    this.none.hidden = items.length > 0;
    this.table.show(items, (w) => `${w.row}/${w.id}`);
    const all = totals?.queued ?? items.length;
    say(this.note, all > items.length ? `the first ${number(items.length)} of ${number(all)}` : all ? `${plural(all, "job")}` : "");
  }
}
