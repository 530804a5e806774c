// Who is in charge, what it decided last, and what else it could have done.

import { clock, make, number, plural, say } from "./format.js";

const SHOWN = 40, CHOICES = 5;

export class Decisions {
  constructor(store) {
    this.store = store;
    this.body = document.querySelector("#decisions .body");
    this.note = document.getElementById("decisions-note");
    this.charge = document.getElementById("charge");
    store.on("policy totals", () => this.draw());
  }

  draw() {
    const { policy, totals } = this.store;
    if (!policy) return;
    const mode = policy.mode && policy.mode !== "active" ? ` (${policy.mode})` : "";
    say(this.charge, `${policy.name}${mode}`);
    const made = totals ? plural(totals.decisions, "decision") : "";
    say(this.note, [made, policy.shadow && `in the shadow: ${policy.shadow}`, policy.agreement !== undefined && policy.agreement !== null && `agrees in ${Math.round(100 * policy.agreement)} %`].filter(Boolean).join(" · "));
    const last = (policy.decisions ?? []).slice(-SHOWN).reverse();
    this.body.replaceChildren(...(last.length ? last.map((d) => this.#one(d)) : [make("p.none", "A rule decides: it scores no alternatives. A learned policy’s are shown here.")]));
  }

  #one(decision) {
    const choices = (decision.alternatives ?? []).slice(0, CHOICES);
    const scores = choices.map((c) => c.score);
    const least = Math.min(...scores), most = Math.max(...scores);
    const took = decision.latency_ms === undefined || decision.latency_ms === null ? "" : ` · ${decision.latency_ms.toFixed(2)} ms`;
    const rows = choices.map((choice) => {
      const share = make("i"), bar = make(".track", share);
      share.style.width = `${most > least ? (100 * (choice.score - least)) / (most - least) : 100}%`;
      return make(`.choice${choice.what === decision.what ? ".taken" : ""}`, make("span", choice.what), bar, make("span", choice.score.toFixed(3)));
    });
    return make(".decision", make("p", make("time.soft", clock(decision.time_ms)), ` ${decision.what ?? ""}`, make("span.soft", took)), ...rows);
  }
}
