// The figures on top, and how full the cluster was and how many waited.

import { Chart } from "./charts.js";
import { clock, duration, make, number, percent, say } from "./format.js";

export class Totals {
  #figures = {};

  constructor(store) {
    this.store = store;
    const list = document.getElementById("figures");
    for (const [key, label] of [["use", "in use"], ["running", "running"], ["waiting", "waiting"], ["nodes", "nodes"], ["done", "completed"], ["failed", "failed"], ["preempted", "preempted"]]) {
      const value = make("dd", make("span"), " ", make("small"));
      this.#figures[key] = [value.firstElementChild, value.lastElementChild];
      list.append(make("div", make("dt", label), value));
    }
    this.clock = document.getElementById("clock");
    setInterval(() => say(this.clock, store.totals ? clock(store.now()) : ""), 1000);
    this.chart = new Chart(document.querySelector("#use .body"), {
      height: 170,
      scales: { y: { range: [0, 1] }, jobs: { range: (_, low, high) => [0, Math.max(high * 1.15, 4)] } },
      axes: [{ scale: "y", values: (_, ticks) => ticks.map(percent) }, { scale: "jobs", side: 1, values: (_, ticks) => ticks.map((t) => (Number.isInteger(t) ? number(t) : "")), grid: { show: false } }],
      // What was sampled holds until the next sample.
      series: [["use", "heat2", "y", { fill: "heat2", paths: uPlot.paths.stepped({ align: 1 }) }], ["waiting", "warn", "jobs", { width: 1.2, paths: uPlot.paths.stepped({ align: 1 }) }]],
    });
    document.querySelector("#use .body").setAttribute("role", "img");
    store.on("totals series", () => this.draw());
  }

  #set(key, text, small = "") {
    say(this.#figures[key][0], text);
    say(this.#figures[key][1], small);
  }

  draw() {
    const { totals, series } = this.store;
    if (!totals) return;
    const { jobs, nodes } = totals;
    const unit = totals.unit === "gpu" ? "GPUs" : "cores";
    this.#set("use", `${number(totals.used)}`, `of ${number(totals.capacity)} ${unit}`);
    const active = jobs.running + jobs.checkpointing + jobs.scaling + jobs.scheduled;
    this.#set("running", number(active), jobs.checkpointing ? `${number(jobs.checkpointing)} saving` : "");
    this.#set("waiting", number(totals.queued));
    const out = [nodes.down && `${number(nodes.down)} down`, nodes.draining && `${number(nodes.draining)} draining`, nodes.provisioning && `${number(nodes.provisioning)} on order`].filter(Boolean).join(", ");
    this.#set("nodes", number(nodes.up), out || "up");
    this.#set("done", number(jobs.completed));
    this.#set("failed", number(jobs.failed));
    this.#set("preempted", number(totals.preemptions), totals.interruptions ? `${number(totals.interruptions)} interrupted` : "");
    const share = totals.capacity ? totals.used / totals.capacity : 0;
    const note = document.getElementById("use-note");
    say(note, `${percent(share)} in use, ${number(totals.queued)} waiting, ${percent(totals.fragmentation)} of what is idle is scattered`);
    document.querySelector("#use .body").ariaLabel = `Use of the cluster and length of the queue over time; now ${note.textContent}`;
    this.chart.show([series.map((p) => p[0] / 1000), series.map((p) => p[1]), series.map((p) => p[2])]);
  }
}

/** Demand and capacity as the autoscaler saw them when it decided. */
export class Scaling {
  constructor(store) {
    this.store = store;
    this.note = document.getElementById("scaling-note");
    const body = document.querySelector("#scaling .body");
    this.none = make("p.none", "Nothing was decided about the number of nodes yet.");
    this.holder = make("div", { role: "img", ariaLabel: "Demand and capacity" });
    body.append(this.none, this.holder);
    this.chart = new Chart(this.holder, {
      height: 140,
      scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.1, 1)] } },
      axes: [{ scale: "y", values: (_, ticks) => ticks.map(number) }],
      series: [["capacity", "soft", "y", { dash: [4, 3] }], ["demand", "accent", "y"]],
    });
    store.on("scaling", () => this.draw());
  }

  draw() {
    const { scaling } = this.store;
    const any = scaling?.demand.length > 0;
    this.none.hidden = any;
    this.holder.hidden = !any;
    if (!any) { say(this.note, ""); return; }
    say(this.note, `${number(scaling.up)} up, ${number(scaling.down)} down; ${number(scaling.added)} nodes added, ${number(scaling.removed)} removed`);
    const capacity = new Map(scaling.capacity);
    this.chart.show([scaling.demand.map(([t]) => t / 1000), scaling.demand.map(([t]) => capacity.get(t) ?? null), scaling.demand.map(([, v]) => v)]);
  }
}
