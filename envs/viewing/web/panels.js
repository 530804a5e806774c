// What is to be read beside the picture: totals, who waits, why the last action was taken, what has just happened.

import { Table, duration, make, number, percent, say } from "./format.js";
import { lastBy } from "./times.js";

const MOST_WAITING = 60, MOST_EVENTS = 14;

export class Panels {
  constructor(player) {
    this.player = player;
    this.figures = ["time", "waiting", "running", "done", "in use", "used so far", "mean slowdown", "mean wait"].map((name) => [make("dt", name), make("dd", "–")]);
    document.getElementById("figures").append(...this.figures.map(([name, value]) => make("div", name, value)));
    const jobs = () => player.episode.jobs;
    this.queue = new Table("Who waits", [
      ["job", "", (job) => make("button", String(jobs().id[job]), { type: "button", onclick: () => player.bars.choose(job) })],
      ["waits", "num", (job) => duration(player.episode.waited(job, player.time))],
      ["workers", "num", (job) => number(jobs().workers[job])],
      [player.episode.resource, "num", (job) => number(jobs().units[job] / 1000)],
      ["estimate", "num", (job) => (jobs().estimate[job] < 0 ? "–" : duration(jobs().estimate[job]))],
      ["slowdown", "num", (job) => number(player.episode.slowdown(job, player.time))],
      ["runs", "num.opt", (job) => number(player.episode.runsOf[job].filter((r) => player.episode.runs.start[r] <= player.time).length)],
    ]);
    document.querySelector("#queue .body").append(this.queue.element);
    this.why = new Table("What the alternatives were worth", [
      ["", "", (each) => (each.rank ? "" : "taken")], ["action", "", (each) => each.action], ["score", "num", (each) => score(each.score)],
      ["", "", (each) => each.note], ["made of", "grow", (each) => each.parts.map(([name, value]) => `${name} ${value > 0 ? "+" : ""}${score(value)}`).join(", ")],
    ]);
    document.querySelector("#why .body").append(this.why.element);
    this.events = new Table("What has just happened", [
      ["time", "", (event) => duration(event.time)], ["what", "", (event) => event.what], ["job", "", (event) => event.job],
      ["", "", (event) => event.detail], ["node", "grow", (event) => event.node],
    ]);
    document.querySelector("#events .body").append(this.events.element);
    if (!player.episodes.some((each) => each.decisions.length)) document.getElementById("why").hidden = true;
  }

  show(episode, time) {
    const of = (name) => episode.at(name, time) ?? 0;
    const slowdown = episode.at("slowdown", time);
    const done = episode.done(time);
    const values = [
      duration(time), number(of("waiting")), number(of("running")), `${number(done)} / ${number(episode.jobs.id.length)}`,
      percent(of("busy") / Math.max(episode.units, 1)), percent(of("utilisation")), slowdown === null ? "–" : number(slowdown), duration(1000 * of("wait")),
    ];
    this.figures.forEach(([, cell], k) => say(cell, values[k]));
    const waiting = episode.waiting(time);
    say(document.getElementById("queue-note"), waiting.length > MOST_WAITING ? `the first ${MOST_WAITING} of ${number(waiting.length)}, by submission` : waiting.length ? "by submission" : "nobody waits");
    this.queue.show(waiting.slice(0, MOST_WAITING), (job) => `${episode.policy}/${job}`);
    this.#decision(episode, time);
    const last = lastBy(episode.eventTimes, time);
    const told = episode.events.slice(Math.max(last + 1 - MOST_EVENTS, 0), last + 1).reverse().map(([at, what, job, node, detail]) => ({ time: at, what, job, node: shorter(node), detail }));
    say(document.getElementById("events-note"), `${number(last + 1)} of ${number(episode.events.length)}, the last ones first`);
    this.events.show(told, (event) => told.indexOf(event));
  }

  #decision(episode, time) {
    const k = this.player.picked ?? lastBy(episode.decisionTimes, time), one = episode.decisions[k];
    say(document.getElementById("why-note"), one ? `decision ${k + 1} of ${episode.decisions.length}, at ${duration(one.time)}; ${one.by}${one.count > one.alternatives.length ? `; ${one.alternatives.length} of ${number(one.count)} alternatives` : ""}` : "no decision yet");
    const rows = (one?.alternatives ?? []).map(([action, worth, note, parts], rank) => ({ rank, action, score: worth, note, parts }));
    this.why.show(rows, (each) => each.rank);
    [...this.why.body.rows].forEach((row, rank) => row.classList.toggle("taken", rank === 0));
  }
}

const score = (value) => (value === null ? "–" : Math.abs(value) >= 1000 ? number(value) : Number(value.toPrecision(3)).toString());

/** Names of nodes, each once with how often, and not too many. */
function shorter(names) {
  if (!names) return "";
  const count = new Map();
  for (const name of names.split(";")) count.set(name, (count.get(name) ?? 0) + 1);
  const told = [...count].map(([name, n]) => (n > 1 ? `${name} ×${n}` : name));
  return told.length > 8 ? `${told.slice(0, 8).join(", ")} and ${told.length - 8} more` : told.join(", ");
}
