// Services: replicas, load with the band in which it is expected to stay, latency.

import { Chart } from "./charts.js";
import { make, number, percent, plural, say } from "./format.js";

export class Services {
  #cards = new Map();

  constructor(store) {
    this.store = store;
    this.body = document.querySelector("#services .body");
    this.none = make("p.none", "No service yet.");
    this.body.append(this.none);
    store.on("services", () => this.draw());
  }

  #fresh(name) {
    const facts = make("dl"), figures = {};
    for (const label of ["replicas", "load", "latency", "in time", "failed", "shed"]) {
      figures[label] = make("dd");
      facts.append(make("dt", label), figures[label]);
    }
    const holder = make("div", { role: "img" });
    const element = make(".service", make("div", make("h3", name), facts), holder);
    this.body.append(element);
    const chart = new Chart(holder, {
      height: 140,
      scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.1, 1)] }, ms: { range: (_, low, high) => [0, Math.max(high * 1.3, 1)] } },
      axes: [{ scale: "y", values: (_, ticks) => ticks.map(number) }, { scale: "ms", side: 1, values: (_, ticks) => ticks.map((t) => `${number(t)} ms`), grid: { show: false }, size: 52 }],
      series: [["high", null, "y", { width: 0 }], ["low", null, "y", { width: 0 }], ["expected", "heat2", "y", { dash: [3, 3], width: 1 }], ["requests/s", "accent", "y"], ["latency", "warn", "ms", { width: 1 }]],
      bands: [{ series: [1, 2], fill: "heat2" }],
    });
    return { element, figures, holder, chart };
  }

  draw() {
    const { services } = this.store;
    this.none.hidden = services.size > 0;
    for (const [name, told] of services) {
      if (!this.#cards.has(name)) this.#cards.set(name, this.#fresh(name));
      this.#drawOne(this.#cards.get(name), told);
    }
    for (const [name, card] of this.#cards) if (!services.has(name)) {
      card.chart.remove();
      card.element.remove();
      this.#cards.delete(name);
    }
  }

  #drawOne({ figures, holder, chart }, told) {
    const last = told.points.at(-1) ?? [0, 0, null];
    const states = told.replicas.map(([address, state]) => make(`i.${state}`, { title: `${address}: ${state}` }));
    const count = Map.groupBy(told.replicas, ([, state]) => state);
    const said = ["healthy", "unhealthy", "draining"].filter((s) => count.get(s)).map((s) => `${count.get(s).length} ${s}`).join(", ") || "none";
    figures.replicas.replaceChildren(make("span.dots", ...states.slice(0, 24), { ariaHidden: "true" }), make("span.unseen", said));
    say(figures.load, `${number(last[1])} /s`);
    say(figures.latency, last[2] === null ? "–" : `${number(last[2])} ms`);
    say(figures["in time"], told.within === null ? "–" : percent(told.within));
    say(figures.failed, number(told.failed));
    say(figures.shed, number(told.shed));
    holder.ariaLabel = `${number(last[1])} requests a second now; replicas: ${said}`;
    const times = told.points.map(([t]) => t / 1000), rates = told.points.map((p) => p[1]), delays = told.points.map((p) => p[2]);
    const empty = times.map(() => null);
    const high = [...empty], low = [...empty], middle = [...empty];
    if (told.band.length && times.length) {
      high[high.length - 1] = low[low.length - 1] = middle[middle.length - 1] = rates.at(-1);
      for (const [ahead, l, m, h] of told.band) {
        times.push(last[0] / 1000 + ahead);
        high.push(h); low.push(l); middle.push(m); rates.push(null); delays.push(null);
      }
    }
    chart.show([times, high, low, middle, rates, delays]);
  }
}
