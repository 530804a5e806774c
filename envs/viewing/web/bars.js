// Nodes as rows, and gangs as bars that grow with time.

import { FONT, colour, cut, heat, pointable, sized } from "./draw.js";
import { duration, make, number, plural, say } from "./format.js";
import { LEFT, View, ticks } from "./times.js";

const BOTTOM = 20, MOST = 16, USUAL = 420, TALL = 4000, NAMED = 11;

export class Bars {
  #drawn = [];

  constructor(player) {
    this.player = player;
    this.chosen = -1;
    const body = document.querySelector("#gangs .body");
    this.canvas = make("canvas", { tabIndex: 0, role: "img", ariaLabel: "Gangs on nodes over time" });
    this.spacer = make("div");
    this.pane = make(".pane", this.canvas, this.spacer);
    this.legend = make("p.legend");
    body.append(this.pane, this.legend);
    this.pane.addEventListener("scroll", () => player.draw());
    pointable(this.canvas, {
      find: (x, y) => this.#drawn.findLast((bar) => x >= bar.x && x < bar.x + Math.max(bar.w, 3) && y >= bar.y && y < bar.y + Math.max(bar.h, 3)) ?? null,
      next: (bar, key) => this.#beside(bar, key),
      tell: (bar) => this.#describe(bar.run),
      place: (bar) => [bar.x + Math.min(bar.w, 20), bar.y + bar.h],
      open: (bar) => { this.choose(player.episode.runs.job[bar.run]); },
      choose: () => {},
    });
  }

  choose(job) {
    this.chosen = this.chosen === job ? -1 : job;
    this.player.draw();
  }

  draw(episode, time, share) {
    const width = this.pane.clientWidth;
    if (!width || !episode.units) return;
    const lanes = episode.units / 1000;
    const each = Math.max(Math.min(USUAL / lanes, MOST), Math.min(1, TALL / lanes));
    const full = lanes * each, shown = Math.min(full, USUAL + 60), top = this.pane.scrollTop;
    this.pane.style.maxHeight = `${shown + BOTTOM}px`;
    const spare = `${Math.max(full - shown, 0)}px`;
    if (this.spacer.style.height !== spare) this.spacer.style.height = spare;
    const context = sized(this.canvas, width, shown + BOTTOM);
    context.font = FONT;
    context.textBaseline = "middle";
    const view = new View(this.player.longest, time, share, LEFT, width);
    this.#axis(context, view, shown);
    context.save();
    context.beginPath();
    context.rect(0, 0, width, shown);
    context.clip();
    this.#nodes(context, episode, view, each, top, shown);
    context.beginPath();
    context.rect(LEFT, 0, width - LEFT, shown);
    context.clip();
    this.#outages(context, episode, view, time, each, top);
    this.#bars(context, episode, view, time, each, top, shown);
    context.restore();
    context.fillStyle = colour("accent");
    context.fillRect(view.x(time) - 0.5, 0, 1, shown + 3);
  }

  #axis(context, view, height) {
    context.fillStyle = colour("rule");
    context.fillRect(view.left, height, view.width - view.left, 1);
    for (const time of ticks(view)) {
      const x = view.x(time), text = duration(time);
      context.fillStyle = colour("faint");
      context.fillRect(x, 0, 1, height);
      context.fillStyle = colour("soft");
      const at = x - context.measureText(text).width / 2;
      if (at > 0 && at < view.width - context.measureText(text).width) context.fillText(text, at, height + BOTTOM / 2 + 1);
    }
  }

  #nodes(context, episode, view, each, top, shown) {
    let free = -Infinity; // where the last name ends
    episode.nodes.forEach((name, n) => {
      const from = (episode.floors[n] / 1000) * each - top, to = (episode.floors[n + 1] / 1000) * each - top;
      if (to < 0 || from > shown) return;
      if (to - from >= 4) { context.fillStyle = colour("rule"); context.fillRect(view.left - 4, to, view.width, 0.5); }
      const middle = (from + to) / 2;
      if (middle - NAMED / 2 < free) return;
      free = middle + NAMED / 2;
      context.fillStyle = colour("soft");
      context.fillText(cut(context, name, LEFT - 10), 0, middle);
    });
  }

  #outages(context, episode, view, time, each, top) {
    for (const [n, start, end] of episode.outages) {
      if (start > time) continue;
      const y = (episode.floors[n] / 1000) * each - top, h = (episode.capacity[n] / 1000) * each;
      const from = view.x(start), to = view.x(Math.min(end, time));
      context.globalAlpha = 0.22;
      context.fillStyle = colour("bad");
      context.fillRect(from, y, to - from, h);
      context.globalAlpha = 1;
    }
  }

  #bars(context, episode, view, time, each, top, shown) {
    const { bars, runs, floors } = episode;
    this.#drawn = [];
    const paint = this.#paint(episode, time);
    const gap = each >= 6 ? 1 : 0.25;
    for (let b = 0; b < bars.run.length; b += 1) {
      const r = bars.run[b], start = runs.start[r];
      if (start > time) continue;
      const end = Math.min(runs.end[r], time);
      const y = ((floors[bars.node[b]] + bars.first[b]) / 1000) * each - top, h = (bars.size[b] / 1000) * each;
      if (y + h < 0 || y > shown || end < view.begin || start > view.end) continue;
      const x = view.x(start), w = Math.max(view.x(end) - x, 0.75);
      context.fillStyle = paint(runs.job[r]);
      context.fillRect(x, y, w, Math.max(h - gap, 0.5));
      const over = runs.end[r] <= time && (runs.how[r] === "preempted" || runs.how[r] === "interrupted");
      if (over) {
        const mark = Math.min(3, Math.max(w / 4, 0.75));
        context.fillStyle = colour(runs.how[r] === "preempted" ? "ink" : "bad");
        context.fillRect(x + w - mark, y, mark, Math.max(h - gap, 0.5));
      }
      if (runs.job[r] === this.chosen) {
        context.strokeStyle = colour("accent");
        context.lineWidth = 2;
        context.strokeRect(x, y, w, Math.max(h - gap, 1));
      }
      this.#drawn.push({ run: r, x, y, w, h });
    }
  }

  /** The colour of a job, as the page is told to paint. */
  #paint(episode, time) {
    const what = document.getElementById("paint").value;
    if (what === "slowdown") return (job) => heat(0.18 + 0.41 * Math.log10(Math.min(episode.slowdown(job, time), 100)));
    const light = Number(colour("paper").match(/[\d.]+/)[0]) > 128 ? 50 : 62;
    const of = what === "job" ? episode.jobs.id : episode.jobs.tenant;
    return (job) => `hsl(${((of[job] + 1) * 137.508) % 360} 42% ${light}%)`;
  }

  tell(episode) {
    const { runs } = episode;
    const count = (how) => runs.how.filter((each) => each === how).length;
    say(this.note ??= document.getElementById("gangs-note"), `${plural(episode.nodes.length, "node")}, ${number(episode.units / 1000)} ${episode.resource}; ${plural(episode.jobs.id.length, "job")} in ${plural(runs.job.length, "run")}, ${number(count("preempted"))} ended by preemption, ${number(count("interrupted"))} by a failure`);
    const key = (name, text) => { const i = make("i"); i.style.background = `var(--${name})`; return make("span", i, text); };
    this.legend.replaceChildren(
      ...(document.getElementById("paint").value === "slowdown" ? [make("span", "slowdown 1 ", make("i.ramp"), " 100 and more")] : []),
      key("ink", "preempted"), key("bad", "its node failed; pale: a node that takes no jobs"), make("span", "click: all runs of a job"),
    );
  }

  #beside(bar, key) {
    const bars = [...this.#drawn].sort((a, b) => a.y - b.y || a.x - b.x);
    const k = bars.findIndex((each) => each.run === bar?.run);
    if (k < 0 || key === "Home") return bars[0] ?? null;
    if (key === "End") return bars.at(-1);
    return bars[k + (key === "ArrowLeft" || key === "ArrowUp" ? -1 : 1)] ?? bars[k];
  }

  #describe(r) {
    const { episode, time } = this.player, { jobs, runs } = episode, job = runs.job[r];
    const nodes = episode.nodesOf(r);
    const on = nodes.length > 6 ? `${nodes.slice(0, 6).join(", ")} and ${nodes.length - 6} more` : nodes.join(", ");
    return [
      `job ${jobs.id[job]}, run ${runs.run[r]}${episode.runsOf[job].length > 1 ? ` (${plural(episode.runsOf[job].length, "stretch")})` : ""}`,
      `${plural(runs.workers[r], "worker")}, ${number(runs.units[r] / 1000)} ${episode.resource} on ${on}`,
      `from ${duration(runs.start[r])}, ${runs.end[r] <= time ? `${runs.how[r]} after ${duration(runs.end[r] - runs.start[r])}` : `for ${duration(time - runs.start[r])}`}`,
      `submitted at ${duration(jobs.submit[job])}, waited ${duration(episode.waited(job, Math.min(time, jobs.end[job] >= 0 ? jobs.end[job] : time)))}`,
      `slowdown ${number(episode.slowdown(job, time))}`,
    ].join("\n");
  }
}
