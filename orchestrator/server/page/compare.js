// Two futures of the cluster over each other: as it is, and with a change. What is better, in words and numbers.

import { Chart } from "./charts.js";
import { clock, duration, jobButton, make, number, say } from "./format.js";

const HOUR_MS = 3600000, NOTHING_H = 30 / 3600, NOTICED_H = 1 / 3600; // what nobody minds, and what is told
const SPANS = [["minutes", 60000], ["hours", HOUR_MS], ["days", 24 * HOUR_MS]];
const HERE = ["soft", "accent"]; // colours: as it is, with the change

/** What a difference in hours comes to: a word, and whether it is good. */
function verdict({ mean, low, high }) {
  if (Math.max(Math.abs(low), Math.abs(high), Math.abs(mean)) < NOTHING_H) return ["no difference", ""];
  if (low >= 0 && mean > 0) return ["later", "bad"];
  if (high <= 0 && mean < 0) return ["sooner", "ok"];
  return [mean > 0 ? "rather later" : "rather sooner", "warn"];
}
const apart = (hours) => (Math.abs(hours) < 1 / 3600 ? "0 s" : `${hours < 0 ? "−" : "+"}${duration(Math.abs(hours) * HOUR_MS)}`);

/** A range of differences as people say it. */
function between({ low, high }) {
  const [a, b] = [low, high].map((hours) => duration(Math.abs(hours) * HOUR_MS));
  if (a === b && low * high >= 0) return `${a} ${low < 0 ? "sooner" : "later"}`;
  if (low >= 0) return `${a} to ${b} later`;
  if (high <= 0) return `${b} to ${a} sooner`;
  return `between ${a} sooner and ${b} later`;
}

export class Comparison {
  constructor(open) {
    this.open = open;
    this.said = make("div.verdict", { role: "region", ariaLabel: "What it comes to", ariaLive: "polite" });
    this.charts = make("div");
    this.waiting = this.#chart("Jobs that wait");
    this.use = this.#chart("In use");
    this.across = make("p.soft.across");
    this.charts.append(this.across, make(".legend", ...["as it is", "with the change"].map((text, k) => make("span", make(`i.line.${HERE[k]}`), text)), make("span", "line: the median; band: eight of ten futures")));
    this.table = make("div.scroll.wide", { role: "region", ariaLabel: "Differences", tabIndex: 0 });
    this.sources = make("p.soft.sources");
    this.element = make("div.comparison", this.said, this.charts, make("h3", "Until their end, on the same futures"), this.table, this.sources, { hidden: true });
  }

  #chart(text) {
    const title = make("h3", text), holder = make("div", { role: "img", ariaLabel: text });
    this.charts.append(title, holder);
    const line = (hue, own) => ["", hue, "y", own];
    const chart = new Chart(holder, {
      height: 130,
      scales: { x: { time: false }, y: { range: (_, low, high) => [0, Math.max(high * 1.1, 1)] } },
      across: { values: (_, ticks) => ticks.map((t) => (t ? number(t) : "now")), space: 60 },
      axes: [{ scale: "y", values: (_, ticks) => ticks.map((t) => (Number.isInteger(t) ? number(t) : "")) }],
      series: HERE.flatMap((hue, k) => [line(null), line(null), line(hue, { width: 1.8, ...(k ? {} : { dash: [5, 3] }) })]),
      bands: HERE.map((hue, k) => ({ series: [3 * k + 1, 3 * k + 2], fill: hue })),
    });
    return { title, holder, chart };
  }

  /** What is shown is about another question than the one that is thought over. */
  stale(is) { this.element.classList.toggle("stale", is); }

  show(told, unit) {
    this.stale(false);
    this.element.hidden = false;
    this.#tell(told);
    this.#draw(told.courses, told.now_ms, unit);
    this.#list(told);
    const { sources } = told;
    const coming = sources.same_time_of === "none" ? "nobody else comes, for there is no past to tell who would" : `others come as in the last ${number(sources.arrivals_of_hours)} h, for ${number(sources.hours_ahead)} h`;
    say(this.sources, `Asked at ${clock(told.now_ms)}: ${number(sources.futures)} futures under rule ${told.rule}; run times like those of ${number(sources.ended_jobs)} jobs that have ended and ${number(sources.running_jobs)} that run; ${coming}. Not in it: ${told.not_modelled.join(", ")}.`);
  }

  #tell({ change, total, others, tenants, new_job: job, now_ms: now }) {
    const said = [];
    if (total) {
      const [, kind] = verdict(total), [word, colour] = kind || !others ? verdict(total) : verdict(others);
      const mean = duration(Math.abs(total.mean) * HOUR_MS);
      said.push(make("p.head", `If ${change}: `, make(`b${colour && `.${colour}`}`, { "no difference": "no difference", later: "worse", sooner: "better", "rather later": "rather worse", "rather sooner": "rather better" }[word])));
      if (kind) said.push(make("p", `Whoever is here ends ${mean} ${total.mean < 0 ? "sooner" : "later"} on average; in eight of ten futures ${between(total)}.`));
    } else said.push(make("p.head", `If ${change}: nobody is here whom it could concern.`));
    if (others && verdict(others)[1]) said.push(make("p", `Those who are still to come wait ${duration(Math.abs(others.mean) * HOUR_MS)} ${others.mean < 0 ? "less" : "longer"} on average.`));
    const sides = Map.groupBy(Object.entries(tenants), ([, one]) => verdict(one)[0]);
    if (sides.get("sooner") && sides.get("later")) said.push(make("p", `Sooner: tenant ${sides.get("sooner").map(([name]) => name).join(", ")}. Later: tenant ${sides.get("later").map(([name]) => name).join(", ")}.`));
    if (job) said.push(make("p", this.#ofNew(job, now)));
    this.said.replaceChildren(...said);
  }

  #ofNew({ start, end }, now) {
    const band = ({ p10, p50, p90 }) => { const [a, b, c] = [p10, p50, p90].map((ms) => (ms === null ? "never" : duration(ms - now))); return a === c ? a : `${b} (${a} – ${c})`; };
    if (!start && !end) return "The new job starts in none of the futures.";
    return `The new job ${start ? `starts in ${band(start)}` : "starts at once"}${end ? `, and ends in ${band(end)}` : ""}.`;
  }

  #draw(courses, now, unit) {
    this.charts.hidden = !courses;
    if (!courses) return;
    const last = courses.times_ms.at(-1) - now;
    const [name, ms] = SPANS.findLast(([, one]) => last >= 2 * one) ?? SPANS[0];
    const times = courses.times_ms.map((t) => (t - now) / ms);
    say(this.across, `${name} from now`);
    say(this.use.title, `${unit}s in use`);
    for (const [{ holder, chart, title }, before, after] of [[this.waiting, courses.waiting, courses.waiting_after], [this.use, courses.in_use, courses.in_use_after]]) {
      chart.show([times, ...[before, after].flatMap(({ p10, p50, p90 }) => [p90, p10, p50])]);
      const half = times.length >> 1;
      holder.ariaLabel = `${title.textContent}: now ${number(before.p50[0])} as it is, ${number(after.p50[0])} with the change; in ${number(times[half])} ${name} ${number(before.p50[half])} and ${number(after.p50[half])}, the median of the futures`;
    }
  }

  #list({ total, others, tenants, jobs }) {
    const groups = [["together", [["whoever is here", total], ["those to come, until they start", others]]], ["tenants", Object.entries(tenants)], ["jobs that change most", Object.entries(jobs).filter(([, { low, high }]) => high > NOTICED_H || low < -NOTICED_H)]]
      .map(([name, rows]) => [name, rows.filter(([, one]) => one)]).filter(([, rows]) => rows.length);
    const most = Math.max(...groups.flatMap(([, rows]) => rows.flatMap(([, { low, high, mean }]) => [low, high, mean].map(Math.abs))), 1 / 60);
    const head = [["", ""], ["as it is", "num.opt"], ["with it", "num.opt"], ["difference", "num"], ["in eight of ten futures", "grow"], ["", ""]];
    const bodies = groups.map(([name, rows]) => make("tbody", make("tr.group", make("td", name, { colSpan: 6 })), ...rows.map(([who, one]) => this.#row(name.startsWith("jobs") ? jobButton(who, who, this.open) : who, one, most))));
    this.table.replaceChildren(make("table", make("caption.unseen", "Differences, future by future"), make("thead", make("tr", ...head.map(([text, kind]) => make(`th${kind && `.${kind}`}`, text || make("span.unseen", kind ? "" : "what"), { scope: "col" })))), ...bodies));
  }

  #row(who, one, most) {
    const [word, kind] = verdict(one);
    const range = make("i"), mean = make("u"), at = (hours) => 50 + (48 * hours) / most;
    range.style.left = `${at(one.low)}%`;
    range.style.right = `${100 - at(one.high)}%`;
    mean.style.left = `calc(${at(one.mean)}% - 1px)`;
    const hours = [one.before, one.after].map((value) => make("td.num.opt", duration(value * HOUR_MS)));
    return make("tr", make("td", who), ...hours, make("td.num", apart(one.mean)), make("td.grow", make("span.unseen", between(one)), make(`.track.apart${kind && `.${kind}`}`, range, mean, { ariaHidden: "true", title: between(one) })), make(`td${kind && `.${kind}`}`, word));
  }
}
