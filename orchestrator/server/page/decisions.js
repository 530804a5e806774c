// Who is in charge, what it decided last, and what else it could have done.

import { getJson } from "./api.js";
import { clock, make, percent, plural, say } from "./format.js";

const SHOWN = 30, CHOICES = 5, AGAIN_MS = 1500;

export class Decisions {
  #timer = null;
  #seen = null; // what is drawn

  constructor(store) {
    this.store = store;
    this.body = document.querySelector("#decisions .body");
    this.note = document.getElementById("decisions-note");
    this.charge = document.getElementById("charge");
    store.on("policy totals", () => this.draw());
    document.addEventListener("visibilitychange", () => this.draw());
  }

  draw() {
    const { policy, totals } = this.store;
    if (!policy) return;
    if (policy.deployed) {
      if (this.#timer === null && !document.hidden) this.#timer = setTimeout(() => this.#load(), this.#seen === null ? 0 : AGAIN_MS);
      return;
    }
    say(this.charge, policy.name);
    say(this.note, totals ? plural(totals.decisions, "decision") : "");
    this.#show([], "A rule decides: it scores no alternatives. Those of a learned policy are shown here.");
  }

  /** Ask who decides, and for the last decisions of a learned policy. */
  async #load() {
    try {
      const [status, { items }] = await Promise.all([getJson("/policy"), getJson(`/policy/decisions?limit=${SHOWN}`)]);
      const { mode, candidate, rule, share } = status;
      const name = candidate?.name ?? "";
      const roles = { fallback: rule, shadow: rule, canary: `${rule}, ${name} at ${percent(share)}`, active: name };
      say(this.charge, roles[mode] ?? this.store.policy.name);
      const gain = candidate?.latency_ms?.p99;
      const told = [mode === "shadow" && `${name} in the shadow`, candidate?.agreement !== undefined && candidate?.agreement !== null && `agrees with ${rule} in ${percent(candidate.agreement)} of ${plural(candidate.points, "point")}`, gain && `p99 ${gain.toFixed(2)} ms`];
      say(this.note, told.filter(Boolean).join(" \u00b7 ") || plural(this.store.totals?.decisions ?? 0, "decision"));
      this.#show(items, mode === "fallback" ? "A rule decides: it scores no alternatives. Those of a learned policy are shown here." : "Nothing was decided yet.");
    } catch (error) {
      this.#show([], error.message);
    }
    this.#timer = null;
  }

  #show(items, otherwise) {
    const seen = items.length ? String(items[0].id) : otherwise;
    if (seen === this.#seen) return;
    this.#seen = seen;
    this.body.replaceChildren(...(items.length ? items.map((item) => this.#one(item)) : [make("p.none", otherwise)]));
  }

  #one(decision) {
    const choices = (decision.alternatives ?? []).slice(0, CHOICES);
    const scores = choices.map((choice) => choice.score);
    const least = Math.min(...scores), most = Math.max(...scores);
    const rows = choices.map(({ action, score }) => {
      const share = make("i");
      share.style.width = `${most > least ? (100 * (score - least)) / (most - least) : 100}%`;
      return make(`div.choice${action === decision.plan[0] ? ".taken" : ""}`, make("span", action), make("div.track", share), make("span", score.toFixed(3)));
    });
    const plan = decision.plan.length ? decision.plan[0] + (decision.plan.length > 1 ? ` and ${decision.plan.length - 1} more` : "") : "wait";
    const verdict = decision.verdict === "taken" ? "" : ` \u00b7 ${decision.verdict}${decision.detail ? `: ${decision.detail}` : ""}`;
    return make("div.decision", make("p", make("time.soft", clock(decision.time_ms)), ` ${plan}`, make("span.soft", ` \u00b7 ${(decision.latency_us / 1000).toFixed(2)} ms${verdict}`)), ...rows);
  }
}
