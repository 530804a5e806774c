// What tenants hold, beside what they are entitled to.

import { make, number, percent, plural, say } from "./format.js";

export class Tenants {
  #rows = new Map();

  constructor(store) {
    this.store = store;
    this.body = document.querySelector("#tenants .body");
    this.none = make("p.none", "No tenant yet.");
    this.body.append(this.none);
    store.on("tenants totals", () => this.draw());
  }

  #fresh(name) {
    const share = make("i"), entitled = make("u"), text = make("span.soft");
    const track = make(".track", share, entitled, { role: "img" });
    const element = make(".tenant", make("b", name, { title: name }), track, text);
    this.body.append(element);
    return { element, share, entitled, track, text };
  }

  draw() {
    const { tenants, totals } = this.store;
    const unit = totals?.unit === "cpu" ? "core" : "GPU";
    this.none.hidden = tenants.length > 0;
    const most = Math.max(...tenants.map((t) => Math.max(t.share, t.entitled)), 0.01);
    const kept = new Set();
    for (const tenant of tenants) {
      kept.add(tenant.name);
      if (!this.#rows.has(tenant.name)) this.#rows.set(tenant.name, this.#fresh(tenant.name));
      const row = this.#rows.get(tenant.name);
      row.share.style.width = `${(100 * tenant.share) / most}%`;
      row.entitled.style.left = `calc(${(100 * tenant.entitled) / most}% - 1px)`;
      row.track.ariaLabel = `holds ${percent(tenant.share)}, entitled to ${percent(tenant.entitled)}`;
      const quota = tenant.quota ? ` of ${number(tenant.quota)}` : "";
      const waits = tenant.waiting ? ` · ${number(tenant.waiting)} wait` : "";
      say(row.text, `${number(tenant.used)}${quota ? quota : ""} ${unit}${tenant.used === 1 && !quota ? "" : "s"} · ${percent(tenant.share)}${waits}`);
    }
    for (const [name, row] of this.#rows) if (!kept.has(name)) { row.element.remove(); this.#rows.delete(name); }
  }
}
