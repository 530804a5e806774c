// What happens, the newest first; the loudest of it is said to those who listen to the page.

import { clock, jobButton, make, say } from "./format.js";

const SHOWN = 120, SAY_MS = 2000;
const LOUD = { failed: "bad", recovered: "ok", interrupted: "warn", preempted: "warn", draining: "warn", overdue: "warn", completed: "ok", cancelled: "warn", gap: "warn" };

export class Events {
  #unsaid = [];
  #timer = null;
  #shown = [];
  #resets = -1;

  constructor(store, open) {
    this.store = store;
    this.open = open;
    this.list = make("ol.log");
    document.querySelector("#events .body").append(this.list);
    this.news = document.getElementById("news");
    this.note = document.getElementById("events-note");
    store.on("events", () => this.draw());
  }

  draw() {
    const { events, fresh, resets } = this.store;
    if (resets !== this.#resets) {
      this.#resets = resets;
      this.list.replaceChildren(...events.slice(-SHOWN).reverse().map((e) => this.#line(e)));
    } else {
      this.list.prepend(...fresh.slice(-SHOWN).reverse().map((e) => this.#line(e)));
      while (this.list.childElementCount > SHOWN) this.list.lastElementChild.remove();
      this.#say(fresh);
    }
    say(this.note, events.length ? "" : "nothing yet");
  }

  #line(event) {
    const kind = LOUD[event.what] ?? "";
    const about = event.job_id ? jobButton(event.job_id, event.job_id, this.open) : make("b", event.node_id ?? event.service ?? event.kind);
    const reason = event.reason ? ` ${event.reason}` : "";
    const code = event.exit_code ? ` (exit code ${event.exit_code})` : "";
    return make("li", make("time.soft", clock(event.time_ms)), make("span", about, make(`span${kind ? `.${kind}` : ""}`, ` ${event.what}`), make("span.soft", reason + code)));
  }

  /** At most one sentence in two seconds. */
  #say(events) {
    this.#unsaid.push(...events.filter((e) => e.what in LOUD));
    if (this.#timer || !this.#unsaid.length) return;
    this.#timer = setTimeout(() => {
      const counts = Map.groupBy(this.#unsaid, (e) => `${e.job_id ? "job" : "node"} ${e.what}`);
      const text = [...counts].map(([what, all]) => (all.length > 1 ? `${all.length} times: ${what}` : `${all[0].job_id ?? all[0].node_id} ${all[0].what}`)).join("; ");
      this.news.textContent = text;
      this.#unsaid = [];
      this.#timer = null;
    }, SAY_MS);
  }
}
