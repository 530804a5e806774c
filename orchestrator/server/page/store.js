// What is known of the cluster: frames are merged here, and whoever draws is told once a picture.

const NODE = ["id", "state", "gpus", "gpu_free_milli", "cpu_cap_milli", "cpu_free_milli", "workers", "rack", "spine"];
const GANG = ["id", "name", "tenant", "priority", "kind", "state", "start_ms", "until_ms", "workers", "gpus"];
const ENDED_KEPT = 600, EVENTS_KEPT = 300, SERIES_KEPT = 2000;
export const STATES = ["pending", "scheduled", "running", "checkpointing", "scaling", "completed", "failed", "preempted"];
export const NODE_STATES = ["absent", "up", "draining", "down", "provisioning"];
export const PRIORITIES = ["critical", "production", "batch", "best effort"];
export const KINDS = ["training", "batch", "service"];

/** A row of columns as an object. */
function record(columns, names, k) {
  const one = { row: columns.row[k] };
  for (const name of names) one[name] = columns[name][k];
  return one;
}

export class Store {
  #drawers = [];
  #touched = new Set();
  #asked = false;
  #ahead = 0; // of the cluster's clock before this page's

  constructor() { this.#clear(); }

  #clear() {
    this.nodes = new Map(); // by row
    this.gangs = new Map(); // by row: placed
    this.ended = []; // the oldest first
    this.waiting = new Map(); // by row
    this.order = []; // rows that wait, in order
    this.tenants = [];
    this.services = new Map(); // by name
    this.totals = null;
    this.scaling = null;
    this.policy = null;
    this.events = []; // the oldest first
    this.fresh = []; // events of the last frame
    this.series = []; // [time, use, queue]
    this.resets = (this.resets ?? 0) + 1;
  }

  /** Time on the cluster's clock. */
  now() { return performance.now() + this.#ahead; }

  /** Have `draw(store)` called, in the next picture, after a part of these names has changed. */
  on(names, draw) { this.#drawers.push({ names: names.split(" "), draw }); }

  touch(name) {
    this.#touched.add(name);
    if (this.#asked) return;
    this.#asked = true;
    requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    const touched = this.#touched;
    this.#touched = new Set();
    this.#asked = false;
    for (const { names, draw } of this.#drawers) if (names.some((name) => touched.has(name))) draw(this);
    this.fresh = [];
    window.dispatchEvent(new CustomEvent("drawn", { detail: this.events.at(-1) }));
  }

  /** Merge a frame. */
  apply(frame) {
    if (frame.reset) this.#clear();
    this.#ahead = frame.now_ms - performance.now();
    if (frame.series) this.#takeSeries(frame.series);
    for (const name of ["tenants", "totals", "scaling", "policy"]) if (frame[name]) this[name] = frame[name];
    if (frame.nodes) this.#takeNodes(frame.nodes);
    if (frame.gangs || frame.ended) this.#takeGangs(frame);
    if (frame.queue) this.#takeQueue(frame.queue);
    if (frame.services) this.#takeServices(frame.services);
    if (frame.events) {
      if (!frame.reset) this.fresh.push(...frame.events);
      this.events.push(...frame.events);
      if (this.events.length > EVENTS_KEPT) this.events.splice(0, this.events.length - EVENTS_KEPT);
    }
    if (frame.totals) this.#sample(frame.now_ms);
    const names = Object.keys(frame);
    if (frame.reset) names.push("nodes", "gangs", "queue", "tenants", "services", "scaling", "policy", "events", "totals");
    for (const name of names) this.touch(name);
  }

  #takeNodes(columns) {
    columns.row.forEach((row, k) => {
      const node = record(columns, NODE, k);
      if (node.state) this.nodes.set(row, node); else this.nodes.delete(row);
    });
  }

  #takeGangs({ gangs = {}, ended }) {
    if (ended) ended.row.forEach((_, k) => this.ended.push({ ...record(ended, GANG, k), end_ms: ended.end_ms[k], at: [] }));
    if (gangs.gone) gangs.gone.row.forEach((row, k) => {
      const gang = this.gangs.get(row);
      if (!gang) return;
      this.gangs.delete(row);
      this.ended.push({ ...gang, end_ms: gangs.gone.end_ms[k], state: gangs.gone.state[k] });
    });
    if (this.ended.length > ENDED_KEPT) this.ended.splice(0, this.ended.length - ENDED_KEPT);
    if (!gangs.set) return;
    let from = 0;
    gangs.set.row.forEach((row, k) => {
      const gang = record(gangs.set, GANG, k);
      gang.at = gangs.set.at.slice(from, from += gang.workers);
      this.gangs.set(row, gang);
    });
  }

  #takeQueue({ order, set }) {
    for (const [row, id, name, tenant, priority, workers, gpus, submit_ms, why] of set ?? [])
      this.waiting.set(row, { row, id, name, tenant, priority, workers, gpus, submit_ms, why });
    if (!order) return;
    this.order = order;
    const kept = new Set(order);
    for (const row of this.waiting.keys()) if (!kept.has(row)) this.waiting.delete(row);
  }

  #takeServices(services) {
    for (const [name, told] of Object.entries(services)) {
      if (!told) { this.services.delete(name); continue; }
      const points = this.services.get(name)?.points ?? [];
      const last = points.at(-1)?.[0] ?? -1;
      this.services.set(name, { ...told, points: [...points, ...told.points.filter(([t]) => t > last)].slice(-600) });
    }
  }

  #takeSeries({ use, queue }) {
    const waits = new Map(queue);
    this.series = use.map(([time, value]) => [time, value, waits.get(time) ?? null]);
  }

  /** How full the cluster is, and how many wait, at most once a second. */
  #sample(now) {
    const { used, capacity, queued } = this.totals;
    const point = [now, capacity ? used / capacity : 0, queued];
    const last = this.series.at(-1);
    if (last && now - last[0] < 1000 && this.series.length > 1) this.series[this.series.length - 1] = [last[0], point[1], point[2]];
    else this.series.push(point);
    if (this.series.length > SERIES_KEPT) this.series.shift();
    this.#touched.add("series");
  }

  tenant(k) { return this.tenants[k]?.name ?? String(k); }
}
