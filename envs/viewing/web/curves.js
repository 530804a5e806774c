// Small series below the bars, on the same clock: this policy's so far, and pale those of the others.

import { FONT, colour, sized } from "./draw.js";
import { make, number, percent, say } from "./format.js";
import { LEFT, View, lastBy } from "./times.js";

const HIGH = 54, GAP = 12;

const ROWS = [
  { name: "waiting", words: "jobs waiting", text: number },
  { name: "busy", words: "in use", text: (value, episode) => percent(value / Math.max(episode.units, 1)), most: (episode) => episode.units },
  { name: "slowdown", words: "mean slowdown", text: number, log: true },
  { name: "wait", words: "mean wait", text: (value) => `${number(value / 3600)} h` },
];

export class Curves {
  constructor(player) {
    this.player = player;
    this.canvas = make("canvas", { role: "img", ariaLabel: "Series up to now" });
    document.querySelector("#curves .body").append(this.canvas);
    say(document.getElementById("curves-note"), "of this policy; pale: of the others at the same time. Click: go there");
    this.canvas.addEventListener("click", (event) => player.go(this.view.time(event.offsetX)));
  }

  draw(episodes, episode, time, share) {
    const width = this.canvas.parentElement.clientWidth;
    if (!width) return;
    const context = sized(this.canvas, width, ROWS.length * (HIGH + GAP));
    context.font = FONT;
    context.textBaseline = "middle";
    const view = this.view = new View(this.player.longest, time, share, LEFT, width);
    ROWS.forEach((row, k) => this.#row(context, row, k * (HIGH + GAP) + GAP, episodes, episode, view, time));
    context.fillStyle = colour("accent");
    context.fillRect(view.x(time) - 0.5, 0, 1, ROWS.length * (HIGH + GAP));
  }

  #row(context, row, top, episodes, episode, view, time) {
    const most = Math.max(1e-9, ...episodes.map((each) => row.most?.(each) ?? each.series[row.name].reduce((a, b) => Math.max(a, b ?? 0), 0)));
    const scale = row.log ? (value) => Math.log(Math.max(value, 1)) / Math.log(Math.max(most, 2)) : (value) => value / most;
    const y = (value) => top + HIGH * (1 - scale(value));
    context.fillStyle = colour("rule");
    context.fillRect(view.left, top + HIGH, view.width - view.left, 0.5);
    context.fillStyle = colour("soft");
    context.fillText(row.words, 0, top + HIGH / 2 - 7);
    const value = episode.at(row.name, time);
    context.fillStyle = colour("ink");
    context.fillText(value === null ? "–" : row.text(value, episode), 0, top + HIGH / 2 + 7);
    context.save();
    context.beginPath();
    context.rect(view.left, top - 2, view.width - view.left, HIGH + 4);
    context.clip();
    for (const other of episodes) if (other !== episode) this.#line(context, other, row.name, view, time, y, colour("soft"), 0.35);
    this.#line(context, episode, row.name, view, time, y, colour("accent"), 1);
    context.restore();
  }

  #line(context, episode, name, view, time, y, hue, alpha) {
    const times = episode.series.time, values = episode.series[name];
    const first = Math.max(lastBy(times, view.begin), 0), last = lastBy(times, Math.min(time, view.end));
    context.strokeStyle = hue;
    context.globalAlpha = alpha;
    context.lineWidth = alpha === 1 ? 1.5 : 1;
    context.beginPath();
    let height = null;
    for (let k = first; k <= last; k += 1) {
      if (values[k] === null) continue;
      const x = view.x(times[k]);
      if (height === null) context.moveTo(x, y(values[k])); else { context.lineTo(x, height); context.lineTo(x, y(values[k])); }
      height = y(values[k]);
    }
    if (height !== null) context.lineTo(view.x(Math.min(time, episode.end)), height);
    context.stroke();
    context.globalAlpha = 1;
  }
}
