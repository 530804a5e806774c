// What if ...? A change is supposed, the twin plays both futures, and nothing is done to the cluster.

import { postJson } from "./api.js";
import { Comparison } from "./compare.js";
import { duration, make, number, say } from "./format.js";
import { PRIORITIES } from "./store.js";

const FUTURES = 100, LISTED = 2000, SLOW_MS = 12000;
const LEVELS = PRIORITIES.map((name) => [name.replace(" ", "_").toUpperCase(), name]);

/** What may be supposed: in words, what has to be said, and what the server is asked. */
const CHANGES = {
  submit: ["a job is submitted", ["workers", "each", "hours", "tenant", "level"], ({ workers, each, hours, tenant, level }, unit) => ({
    submit: { name: "what-if", num_workers: Number(workers), [unit === "GPU" ? "gpus_per_worker" : "cpus_per_worker"]: Number(each), max_duration_hours: Number(hours), tenant: tenant || "default", priority: level },
  })],
  cancel: ["a job is cancelled", ["job"], ({ job }) => ({ cancel: [job] })],
  priority: ["a waiting job has another priority", ["waiting", "level"], ({ waiting, level }) => ({ priority: { [waiting]: level } })],
  move: ["a running job is moved to a tighter place", ["running"], ({ running }) => ({ move: [running] })],
  drain: ["a node is drained", ["node"], ({ node }) => ({ drain: [node] })],
  fail: ["a node fails", ["node"], ({ node }) => ({ fail: [node] })],
  nodes: ["nodes join", ["count", "like"], ({ count, like }) => ({ nodes: { [like]: Number(count) } })],
  quota: ["a tenant has another quota", ["owner", "quota"], ({ owner, quota }) => ({ quota: { [owner]: Number(quota) } })],
  policy: ["another rule decides", ["rule"], ({ rule }) => ({ policy: rule })],
};

const whole = { type: "number", min: 1, step: 1, value: 1, required: true };
const some = { type: "number", min: 0, step: "any", required: true };
const named = { type: "text", autocomplete: "off", spellcheck: false, required: true };
const waiting = ({ order, waiting: jobs }) => order.map((row) => jobs.get(row)).filter(Boolean).map(({ id, name }) => [id, name]);
const running = ({ gangs }) => [...gangs.values()].map(({ id, name }) => [id, name]);
const nodes = (store) => [...store.nodes.values()].map(({ id }) => [id, ""]);
const tenants = (store) => store.tenants.map(({ name }) => [name, ""]);

/** What has to be said: a label, and an input with what is known (`list`), or a choice (`choose`). */
const FIELDS = {
  workers: { label: () => "workers", input: whole },
  each: { label: (unit) => `${unit}s of each`, input: { ...some, value: 1 } },
  hours: { label: () => "hours at most", input: { ...some, value: 1, min: 0.001 } },
  tenant: { label: () => "tenant", input: { ...named, required: false, placeholder: "default" }, list: tenants },
  level: { label: () => "priority", choose: () => LEVELS },
  job: { label: () => "job", input: named, list: (store) => [...running(store), ...waiting(store)] },
  waiting: { label: () => "job that waits", input: named, list: waiting },
  running: { label: () => "job that runs", input: named, list: running },
  node: { label: () => "node", input: named, list: nodes },
  count: { label: () => "how many", input: whole },
  like: { label: () => "like node", input: named, list: nodes },
  owner: { label: () => "tenant", input: named, list: tenants },
  quota: { label: (unit) => `${unit}s`, input: { ...some, value: 8 } },
  rule: { label: () => "rule", choose: ({ policy }) => (policy?.rules ?? []).map((name) => [name, name]) },
};

export class WhatIf {
  #stop = null; // of the question that is thought over
  #said = new Map(); // by field: what was said of it last

  constructor(store, open) {
    this.store = store;
    this.dialog = document.getElementById("whatif");
    const title = make("h2", "What if …", { id: "whatif-title" });
    const close = make("button", "Close", { type: "button", onclick: () => this.dialog.close() });
    this.kind = make("select", { id: "whatif-kind" }, ...Object.entries(CHANGES).map(([value, [said]]) => make("option", said, { value })));
    this.fields = make(".fields");
    this.ask = make("button.primary", "Compare", { type: "submit" });
    this.state = make("p.soft.state", { role: "status" });
    this.clock = make("span.soft", { ariaHidden: "true" });
    this.problem = make("p.bad", { role: "alert" });
    const form = make("form.change", make("div", make("label", "Suppose that", { htmlFor: "whatif-kind" }), this.kind), this.fields, make(".go", this.ask, this.state, this.clock));
    this.answer = new Comparison(open);
    this.dialog.append(make(".title", title, close), make("p.soft", "The cluster is copied, and the copy is played forward with the change and without it. Nothing is done to the cluster."), form, this.problem, this.answer.element);
    this.kind.addEventListener("change", () => this.#choose());
    form.addEventListener("submit", (event) => { event.preventDefault(); this.#compare(); });
    this.dialog.addEventListener("close", () => { if (!this.dialog.open) this.#stop?.abort(); });
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
  }

  get #unit() { return this.store.totals?.unit === "cpu" ? "core" : "GPU"; }

  /** Open it; with a change of a kind and what is to be said of it, ask at once. */
  open(kind, said = {}) {
    for (const [field, value] of Object.entries(said)) this.#said.set(field, value);
    if (kind in CHANGES) this.kind.value = kind;
    this.#choose();
    if (!this.dialog.open) this.dialog.showModal();
    this.kind.focus();
    if (kind in CHANGES && CHANGES[kind][1].every((field) => field in said)) this.#compare();
  }

  /** Ask for what a kind of change needs. */
  #choose() {
    this.fields.replaceChildren(...CHANGES[this.kind.value][1].map((field) => this.#field(field)));
    say(this.problem, "");
  }

  #field(field) {
    const { label, input, list, choose } = FIELDS[field], id = `whatif-${field}`;
    const known = (list ?? choose)?.(this.store) ?? [];
    const options = known.slice(0, LISTED).map(([value, text]) => make("option", { value, ...(choose ? { textContent: text } : { label: text }) }));
    const element = choose ? make("select", { id }, ...options) : make("input", { id, ...input });
    if (list) element.setAttribute("list", `${id}-known`);
    if (this.#said.has(field)) element.value = this.#said.get(field);
    else if (field === "level") element.value = "BATCH";
    element.addEventListener("input", () => this.#said.set(field, element.value));
    return make("div", make("label", label(this.#unit), { htmlFor: id }), element, list && make("datalist", { id: `${id}-known` }, ...options));
  }

  async #compare() {
    this.#stop?.abort();
    const stop = this.#stop = new AbortController();
    const [, names, body] = CHANGES[this.kind.value];
    const values = Object.fromEntries(names.map((field) => [field, document.getElementById(`whatif-${field}`).value.trim()]));
    say(this.problem, "");
    this.answer.stale(true);
    const done = this.#think();
    try {
      const told = await postJson("/what-if", { ...body(values, this.#unit), futures: FUTURES }, stop.signal);
      this.answer.show(told, this.#unit);
      say(this.state, `compared in ${number(told.sources.futures)} futures`);
    } catch (error) {
      if (stop.signal.aborted) return;
      say(this.problem, error.message);
      say(this.state, "");
    } finally {
      done();
    }
  }

  /** Say that it takes a while; what ends that. */
  #think() {
    const begun = performance.now();
    say(this.state, "futures are played …");
    const turn = setInterval(() => {
      const ms = performance.now() - begun;
      say(this.clock, duration(ms));
      if (ms > SLOW_MS) say(this.state, "futures are played … the first question on a machine compiles what plays them: up to a minute");
    }, 1000);
    return () => { clearInterval(turn); say(this.clock, ""); };
  }
}
