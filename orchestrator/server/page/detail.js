// One job: what it is, why it waits, what happened to it, the end of its output. Or one node: who is on it.

import { getJson, getText } from "./api.js";
import { clock, duration, jobButton, make, number, plural, say } from "./format.js";
import { NODE_STATES } from "./store.js";

const AGAIN_MS = 2000, TAIL = 4000;
const ENDED = ["completed", "failed"];

export class Detail {
  #asked = null; // what is open
  #timer = null;

  /** `suppose(kind, said)` asks what would be if something were done. */
  constructor(store, suppose) {
    this.store = store;
    this.suppose = suppose;
    this.dialog = document.getElementById("detail");
    this.title = make("h2", { id: "detail-title" });
    const close = make("button", "Close", { type: "button", onclick: () => this.dialog.close() });
    this.content = make("div");
    this.dialog.append(make(".title", this.title, close), this.content);
    this.dialog.addEventListener("close", () => { if (!this.dialog.open) this.#forget(); }); // it comes late, and another one may be open
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
    store.on("gangs queue", () => { if (this.#asked?.job) this.#soon(150); });
  }

  #forget() {
    this.#asked?.stop.abort();
    this.#asked = null;
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  #begin(what) {
    this.#forget();
    this.#asked = { ...what, stop: new AbortController() };
    this.content.replaceChildren(make("p.none", "…"));
    if (!this.dialog.open) this.dialog.showModal();
  }

  openJob(id) {
    this.#begin({ job: id });
    say(this.title, id);
    this.facts = make("dl.facts");
    this.history = make("ol.log");
    this.output = make("pre", { tabIndex: 0, role: "region", ariaLabel: "Output" });
    this.#load(true);
  }

  openNode(node) {
    this.#begin({ node: node.id });
    say(this.title, node.id);
    const gangs = [...this.store.gangs.values()].filter((g) => g.at.includes(node.row));
    const list = gangs.map((g) => make("li", make("span.soft", plural(g.at.filter((n) => n === node.row).length, "worker")), make("span", jobButton(g.id, g.name, (id) => this.openJob(id)), ` for ${duration(this.store.now() - g.start_ms)}`)));
    const facts = { state: NODE_STATES[node.state], GPUs: node.gpus ? `${number(node.gpu_free_milli / 1000)} of ${number(node.gpus)} free` : "none", cores: `${number(node.cpu_free_milli / 1000)} of ${number(node.cpu_cap_milli / 1000)} free`, "rack, spine": `${node.rack}, ${node.spine}` };
    const ask = this.#questions([["it is drained", "drain", { node: node.id }], ["it fails", "fail", { node: node.id }], ["one more like it joins", "nodes", { like: node.id, count: 1 }]]);
    this.content.replaceChildren(this.#list(make("dl.facts"), facts), ask, make("h3", "Jobs here"), list.length ? make("ol.log", ...list) : make("p.none", "None."));
  }

  #questions(kinds) {
    return make("p.ask", make("span.soft", "What if"), ...kinds.map(([text, kind, said]) => make("button", text, { type: "button", onclick: () => this.suppose(kind, said) })));
  }

  #list(element, facts) {
    element.replaceChildren(...Object.entries(facts).filter(([, v]) => v !== null && v !== undefined && v !== "").flatMap(([k, v]) => [make("dt", k), make("dd", v)]));
    return element;
  }

  #soon(ms) {
    if (this.#timer === null) this.#timer = setTimeout(() => { this.#timer = null; this.#load(false); }, ms);
  }

  async #load(first) {
    const asked = this.#asked;
    if (!asked?.job) return;
    const path = `/jobs/${encodeURIComponent(asked.job)}`;
    let job;
    try {
      job = await getJson(path, asked.stop.signal);
    } catch (error) {
      if (this.#asked === asked && first) this.content.replaceChildren(make("p.bad", error.message, { role: "alert" }));
      else if (this.#asked === asked) this.#soon(AGAIN_MS);
      return;
    }
    if (this.#asked !== asked) return;
    const waits = this.store.order.some((row) => this.store.waiting.get(row)?.id === asked.job);
    const kinds = [["it is cancelled", "cancel", { job: asked.job }], ...(waits ? [["its priority is another", "priority", { waiting: asked.job }]] : [["it is moved", "move", { running: asked.job }]])];
    if (first) this.content.replaceChildren(this.facts, ...(ENDED.includes(job.state) ? [] : [this.#questions(kinds)]), make("h3", "History"), this.history, make("h3", "End of its output"), this.output);
    this.#show(job);
    if (job.command?.length) await this.#tail(path, asked);
    else say(this.output, "(it runs nothing: it is simulated)");
    if (this.#asked === asked && !ENDED.includes(job.state)) this.#soon(AGAIN_MS);
  }

  #show(job) {
    say(this.title, job.name === job.job_id ? job.name : `${job.name} · ${job.job_id}`);
    const waits = job.waits_for ? job.waits_for.text || job.why_not?.replaceAll("_", " ") : null;
    const nodes = job.node_ids ?? [...new Set((job.workers ?? []).map((w) => w.node))];
    this.#list(this.facts, {
      state: job.state + (job.exit_code !== null && job.exit_code !== undefined ? `, exit code ${job.exit_code}` : ""),
      because: job.reason,
      "waits for": waits,
      position: job.queue_position && `${job.queue_position} in the queue`,
      "expected to start": job.expected_start_ms && clock(job.expected_start_ms),
      tenant: job.tenant,
      priority: String(job.priority).toLowerCase().replace("_", " "),
      command: job.command?.length ? job.command.join(" ") : null,
      workers: job.workers?.length ? `${job.workers.length} on ${nodes.join(", ")}` : null,
      submitted: clock(job.submit_ms),
      started: job.start_ms && clock(job.start_ms),
      ended: job.end_ms && clock(job.end_ms),
      "waited": duration(job.wait_ms ?? 0),
      progress: job.progress !== undefined ? `${Math.round(100 * job.progress)} % by its estimate` : null,
      starts: job.starts,
      "preempted, interrupted": job.preemptions || job.interruptions ? `${job.preemptions}, ${job.interruptions} times` : null,
      checkpoint: job.checkpoint?.checkpoint_id,
    });
    const notes = (job.history ?? []).slice().reverse();
    this.history.replaceChildren(...notes.map((n) => make("li", make("time.soft", clock(n.time_ms)), make("span", n.what, make("span.soft", n.reason ? ` ${n.reason}` : "")))));
  }

  async #tail(path, asked) {
    let text;
    try {
      text = await getText(`${path}/logs?tail=${TAIL}`, asked.stop.signal);
    } catch (error) {
      text = `(${error.message})`;
    }
    if (this.#asked !== asked) return;
    const atEnd = this.output.scrollHeight - this.output.scrollTop - this.output.clientHeight < 30;
    say(this.output, text || "(nothing yet)");
    if (atEnd) this.output.scrollTop = this.output.scrollHeight;
  }
}
