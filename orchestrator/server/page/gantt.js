// Gangs over time: what runs and what ran, each in the first lane that was free. It moves with the clock.

import { FONT, colour, cut, pointable, sized } from "./draw.js";
import { Table, clock, duration, jobButton, make, mark, number, plural, say } from "./format.js";
import { KINDS, PRIORITIES, STATES } from "./store.js";

const SPANS = [60, 300, 900, 3600, 21600, 86400, 604800]; // seconds
const NOW_AT = 0.8; // of the width
const AXIS = 20, LEAST = 4, NAMED = 15, MOST = 22, HEIGHT = 360, IN_TABLE = 300;
const FEW = 60; // lanes that are worth scrolling for names
const TICKS = [1, 5, 10, 30, 60, 300, 600, 1800, 3600, 10800, 21600, 43200, 86400, 172800].map((s) => s * 1000);
const CALM = { 2: "", 5: "", 3: "saving", 4: "regrouping", 6: "failed", 7: "preempted", 0: "interrupted", "-1": "restarted" };

const spanName = (s) => (s < 3600 ? `${s / 60} min` : s < 86400 ? `${s / 3600} h` : `${s / 86400} d`);

export class Gantt {
  #lanes = []; // when each is free
  #laneOf = new Map(); // by row and start
  #resets = -1;
  #drawn = 0;
  #chosen = null;
  #stale = true;
  #bars = [];

  constructor(store, open) {
    this.store = store;
    this.body = document.getElementById("gangs-body");
    this.note = document.getElementById("gangs-note");
    this.choice = document.getElementById("span");
    this.choice.append(new Option("as they last", ""), ...SPANS.map((s) => new Option(spanName(s), s)));
    this.choice.addEventListener("change", () => { this.#stale = true; });
    this.canvas = make("canvas", { tabIndex: 0, role: "img", ariaLabel: "Gangs over time" });
    this.spacer = make("div");
    this.pane = make(".pane", this.canvas, this.spacer);
    this.pane.addEventListener("scroll", () => { this.#stale = true; });
    this.legend = make("p.legend", ...PRIORITIES.map((name, k) => { const i = make("i"); i.style.background = `var(--p${k})`; return make("span", i, name); }), make("span", "pale: expected, by estimate"), make("span", "red end: cut short"));
    this.table = new Table("Gangs", [
      ["job", "", (g) => jobButton(g.id, g.name, open)], ["state", "", (g) => (g.end_ms ? CALM[g.state] || "completed" : STATES[g.state])],
      ["kind", "opt", (g) => KINDS[g.kind]], ["priority", "opt", (g) => PRIORITIES[g.priority]], ["tenant", "opt", (g) => store.tenant(g.tenant)],
      ["workers", "num", (g) => g.workers], ["began", "num", (g) => clock(g.start_ms)],
      ["for", "num", (g) => duration((g.end_ms ?? store.now()) - g.start_ms)], ["nodes", "grow", (g) => this.#nodesOf(g)],
    ]);
    this.scroll = make(".scroll", this.table.element, { tabIndex: 0, role: "region", ariaLabel: "Gangs as a table", hidden: true });
    this.body.append(this.pane, this.legend, this.scroll);
    pointable(this.canvas, {
      find: (x, y) => this.#bars.findLast((b) => y >= b.y && y < b.y + b.h && x >= b.x && x < b.x + Math.max(b.w, 4)) ?? null,
      next: (bar, key) => this.#beside(bar, key),
      tell: ({ gang }) => this.#describe(gang),
      place: (bar) => [Math.max(bar.x, 0) + 20, bar.y + bar.h],
      open: ({ gang }) => open(gang.id),
      choose: (bar) => { this.#chosen = bar?.gang ?? null; this.#stale = true; },
    });
    store.on("gangs ended", () => { this.#stale = true; this.#tell(); });
    new ResizeObserver(() => { this.#stale = true; }).observe(this.pane);
    addEventListener("theme", () => { this.#stale = true; });
    const turn = () => { this.#turn(); requestAnimationFrame(turn); };
    requestAnimationFrame(turn);
  }

  get asTable() { return !this.scroll.hidden; }

  swap(on) {
    this.scroll.hidden = !on;
    this.pane.hidden = this.legend.hidden = on;
    this.#stale = true;
    this.#tell();
  }

  /** Draw if anything has changed, or time has moved it by half a pixel of the screen. */
  #turn() {
    if (this.asTable || !this.pane.clientWidth) return;
    const now = this.store.now();
    const half = this.spanMs() / this.pane.clientWidth / (2 * devicePixelRatio);
    if (!this.#stale && now - this.#drawn < half) return;
    this.#drawn = now;
    this.#draw(now);
    this.#stale = false;
  }

  spanMs() {
    if (this.choice.value) return 1000 * Number(this.choice.value);
    if (this.#stale || !this.auto) this.auto = this.#fitting();
    return this.auto;
  }

  /** The span in which most of what runs began, or a little of what ended can be seen. */
  #fitting() {
    const now = this.store.now();
    const ages = [...this.store.gangs.values()].map((g) => now - g.start_ms);
    for (const gang of this.store.ended.slice(-20)) ages.push(now - gang.start_ms);
    ages.sort((a, b) => a - b);
    const age = ages.length ? ages[Math.floor(0.8 * (ages.length - 1))] : 0;
    return 1000 * (SPANS.find((s) => 1000 * s * NOW_AT * 0.9 > age) ?? SPANS.at(-1));
  }

  #lane(gang) {
    const key = `${gang.row}/${gang.start_ms}`;
    let lane = this.#laneOf.get(key);
    if (lane === undefined) {
      lane = this.#lanes.findIndex((free) => free <= gang.start_ms);
      if (lane < 0) lane = this.#lanes.push(0) - 1;
      this.#laneOf.set(key, lane);
    }
    this.#lanes[lane] = gang.end_ms ?? Infinity;
    return lane;
  }

  /** All gangs that can be seen, each in its lane; lanes of those that are long gone are free again. */
  #placed(begin) {
    if (this.#resets !== this.store.resets) {
      this.#resets = this.store.resets;
      this.#lanes = [];
      this.#laneOf.clear();
    }
    const seen = [...this.store.ended.filter((g) => g.end_ms > begin), ...this.store.gangs.values()];
    if (!this.#laneOf.size) seen.sort((a, b) => a.start_ms - b.start_ms);
    const placed = seen.map((gang) => [gang, this.#lane(gang)]);
    if (this.#laneOf.size > 4 * seen.length + 1000) this.#resets = -1;
    return placed;
  }

  #draw(now) {
    const width = this.pane.clientWidth, span = this.spanMs();
    const begin = now - span * NOW_AT;
    const placed = this.#placed(begin);
    const lanes = placed.reduce((most, [, lane]) => Math.max(most, lane + 1), 1);
    const room = HEIGHT - AXIS;
    const each = Math.min(Math.max(Math.floor(room / lanes), lanes <= FEW ? NAMED : LEAST), MOST);
    const height = Math.min(Math.max(lanes * each, 3 * MOST), room) + AXIS;
    const spare = Math.max(lanes * each + AXIS - height, 0);
    if (this.spacer.clientHeight !== spare) this.spacer.style.height = `${spare}px`;
    this.pane.style.maxHeight = `${height}px`;
    const context = sized(this.canvas, width, height);
    context.font = FONT;
    context.textBaseline = "middle";
    const x = (time) => ((time - begin) / span) * width;
    this.#drawAxis(context, x, begin, begin + span, height, width);
    const top = this.pane.scrollTop;
    context.save();
    context.beginPath();
    context.rect(0, 0, width, height - AXIS);
    context.clip();
    this.#bars = [];
    for (const [gang, lane] of placed) {
      const y = lane * each - top;
      if (y + each < 0 || y > height - AXIS) continue;
      this.#drawBar(context, gang, x, y, each - (each > 6 ? 2 : 1), now, width);
    }
    context.restore();
    context.fillStyle = colour("accent");
    context.fillRect(x(now) - 0.5, 0, 1, height - AXIS + 3);
  }

  #drawBar(context, gang, x, y, h, now, width) {
    const from = x(gang.start_ms), to = x(gang.end_ms ?? now);
    if (to < 0) return;
    const hue = colour(`p${gang.priority}`);
    const left = Math.max(from, -2), w = Math.max(to - left, 1.5);
    if (!gang.end_ms && gang.until_ms !== -1) {
      const until = Math.min(x(gang.until_ms), width);
      if (until > to) { context.globalAlpha = 0.25; context.fillStyle = hue; context.fillRect(to, y, until - to, h); }
    }
    if (!gang.end_ms && gang.until_ms === -1) { context.globalAlpha = 0.25; context.fillStyle = hue; context.fillRect(to, y, width - to, h); }
    context.globalAlpha = gang.end_ms ? 0.55 : 1;
    context.fillStyle = hue;
    context.fillRect(left, y, w, h);
    context.globalAlpha = 1;
    const short = gang.end_ms && gang.state !== 5;
    if (short) { context.fillStyle = colour("bad"); context.fillRect(to - Math.min(3, w), y, Math.min(3, w), h); }
    if (this.#chosen && this.#chosen.row === gang.row && this.#chosen.start_ms === gang.start_ms) {
      context.strokeStyle = colour("ink");
      context.lineWidth = 1.5;
      context.strokeRect(left + 0.5, y + 0.5, Math.max(w - 1, 2), h - 1);
    }
    if (h >= 12 && w > 28) {
      context.fillStyle = gang.end_ms ? colour("ink") : colour("bar-ink");
      const start = Math.max(left, 0) + 5;
      context.fillText(cut(context, `${gang.name}  ${gang.workers > 1 ? `×${gang.workers}` : ""}`.trim(), to - start - 5), start, y + h / 2 + 0.5);
    }
    this.#bars.push({ gang, x: left, y, w, h });
  }

  #drawAxis(context, x, begin, end, height, width) {
    const step = TICKS.find((t) => x(begin + t) >= 74) ?? TICKS.at(-1);
    context.fillStyle = colour("rule");
    context.fillRect(0, height - AXIS, width, 1);
    const zone = new Date(begin).getTimezoneOffset() * 60000;
    for (let t = Math.ceil((begin - zone) / step) * step + zone; t < end; t += step) {
      context.fillStyle = colour("faint");
      context.fillRect(x(t), 0, 1, height - AXIS);
      context.fillStyle = colour("soft");
      const text = step >= 60000 ? clock(t).slice(0, 5) : clock(t);
      const at = x(t) - context.measureText(text).width / 2;
      if (at > 0 && at < width - 40) context.fillText(text, at, height - AXIS / 2 + 1);
    }
  }

  #beside(bar, key) {
    const bars = [...this.#bars].sort((a, b) => a.y - b.y || a.x - b.x);
    const k = bars.findIndex((b) => b.gang === bar?.gang);
    if (k < 0 || key === "Home") return bars[0] ?? null;
    if (key === "End") return bars.at(-1);
    const step = key === "ArrowLeft" || key === "ArrowUp" ? -1 : 1;
    return bars[k + step] ?? bars[k];
  }

  #nodesOf(gang) {
    const names = [...new Set(gang.at)].map((n) => this.store.nodes.get(n)?.id ?? `#${n}`);
    return names.length > 6 ? `${names.slice(0, 6).join(", ")} and ${names.length - 6} more` : names.join(", ");
  }

  #describe(gang) {
    const end = gang.end_ms;
    const how = end ? CALM[gang.state] || "completed" : STATES[gang.state];
    const lines = [`${gang.name} (${gang.id})`, `${KINDS[gang.kind]}, ${PRIORITIES[gang.priority]}, ${this.store.tenant(gang.tenant)}`];
    lines.push(`${plural(gang.workers, "worker")}${gang.gpus ? ` with ${plural(gang.gpus, "GPU")} each` : ""}`);
    lines.push(`${how}, ${end ? `took ${duration(end - gang.start_ms)}` : `for ${duration(this.store.now() - gang.start_ms)}`}`);
    const nodes = this.#nodesOf(gang);
    if (nodes) lines.push(`on ${nodes}`);
    return lines.join("\n");
  }

  #tell() {
    const { gangs, ended } = this.store;
    say(this.note, `${number(gangs.size)} placed, the last ${number(ended.length)} that ended`);
    this.canvas.ariaLabel = `Gangs over time: ${gangs.size} are placed. Arrow keys walk through them, Enter opens one.`;
    if (!this.asTable) return;
    const running = [...gangs.values()].sort((a, b) => b.start_ms - a.start_ms);
    const all = [...running, ...ended.slice().reverse()].slice(0, IN_TABLE);
    this.table.show(all, (g) => `${g.row}/${g.start_ms}`);
  }
}
