// Nodes by rack, as dark as they are busy; marks for those that are down, leaving or on order.

import { FONT, colour, cut, heat, pointable, sized } from "./draw.js";
import { Table, make, number, percent, plural, say } from "./format.js";
import { NODE_STATES } from "./store.js";

const FEW = 40; // nodes that have room for a name
const GAP = 2, BETWEEN = 10, LABEL = 13, MOST_HEIGHT = 336;

const used = (node) => (node.gpus ? 1 - node.gpu_free_milli / (1000 * node.gpus) : 1 - node.cpu_free_milli / Math.max(node.cpu_cap_milli, 1));
const holds = (node) => (node.gpus ? `${number(node.gpus - node.gpu_free_milli / 1000)} of ${plural(node.gpus, "GPU")}` : `${number((node.cpu_cap_milli - node.cpu_free_milli) / 1000)} of ${plural(node.cpu_cap_milli / 1000, "core")}`);

export class HeatMap {
  #cells = []; // {node, x, y}
  #chosen = null;

  constructor(store, open) {
    this.store = store;
    this.body = document.getElementById("nodes-body");
    this.note = document.getElementById("nodes-note");
    this.canvas = make("canvas", { tabIndex: 0, role: "img", ariaLabel: "Nodes by rack and use" });
    this.legend = make("p.legend");
    this.table = new Table("Nodes", [
      ["node", "", (n) => n.id], ["state", "", (n) => NODE_STATES[n.state]], ["rack", "num", (n) => n.rack],
      ["in use", "num", (n) => percent(used(n))], ["holds", "", holds], ["workers", "num", (n) => n.workers],
    ]);
    this.scroll = make(".scroll", this.table.element, { tabIndex: 0, role: "region", ariaLabel: "Nodes as a table", hidden: true });
    this.body.append(this.canvas, this.legend, this.scroll);
    pointable(this.canvas, {
      find: (x, y) => this.#cells.find((c) => x >= c.x && x < c.x + this.width && y >= c.y && y < c.y + this.height),
      next: (cell, key) => this.#beside(cell, key),
      tell: ({ node }) => `${node.id}\n${NODE_STATES[node.state]}, ${holds(node)}\n${plural(node.workers, "worker")}, rack ${node.rack}`,
      place: (cell) => [cell.x + this.width, cell.y + this.height],
      open: ({ node }) => open(node),
      choose: (cell) => { if (cell !== this.#chosen) { this.#chosen = cell; this.draw(); } },
    });
    store.on("nodes", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.body);
    addEventListener("theme", () => this.draw());
  }

  get asTable() { return !this.scroll.hidden; }

  swap(on) {
    this.scroll.hidden = !on;
    this.canvas.hidden = this.legend.hidden = on;
    this.draw();
  }

  #beside(cell, key) {
    const k = this.#cells.findIndex((c) => c.node.row === cell?.node.row);
    if (key === "Home" || k < 0) return this.#cells[0] ?? null;
    if (key === "End") return this.#cells.at(-1);
    if (key === "ArrowLeft" || key === "ArrowRight") return this.#cells[k + (key === "ArrowLeft" ? -1 : 1)] ?? cell;
    const sign = key === "ArrowUp" ? -1 : 1;
    const beyond = this.#cells.filter((c) => sign * (c.y - cell.y) > 0);
    beyond.sort((a, b) => sign * (a.y - b.y) || Math.abs(a.x - cell.x) - Math.abs(b.x - cell.x));
    return beyond[0] ?? cell;
  }

  /** Where each node is drawn: racks one after the other, each a block. */
  #layout(width, racks, size) {
    const few = this.few;
    [this.width, this.height] = few ? size : [size, size];
    const step = [this.width + GAP, this.height + GAP];
    const cells = [];
    let x = 0, y = 0, tallest = 0;
    for (const nodes of racks) {
      const across = few ? Math.max(1, Math.floor((width + GAP) / step[0])) : Math.max(1, Math.min(Math.floor((width + GAP) / step[0]), Math.ceil(Math.sqrt(nodes.length * 2))));
      const columns = Math.min(across, nodes.length);
      const rows = Math.ceil(nodes.length / columns);
      const label = racks.length > 1 ? LABEL : 0;
      if (x > 0 && x + columns * step[0] > width) { x = 0; y += tallest + BETWEEN; tallest = 0; }
      nodes.forEach((node, k) => cells.push({ node, x: x + (k % columns) * step[0], y: y + label + Math.floor(k / columns) * step[1], first: k === 0, wide: columns * step[0] }));
      tallest = Math.max(tallest, label + rows * step[1]);
      x += columns * step[0] + BETWEEN;
    }
    this.total = y + tallest;
    return cells;
  }

  draw() {
    const nodes = [...this.store.nodes.values()].sort((a, b) => a.spine - b.spine || a.rack - b.rack || a.row - b.row);
    this.#tell(nodes);
    if (this.asTable) { this.table.show(nodes, (n) => n.row); return; }
    const width = this.body.clientWidth;
    if (!width) return;
    this.few = nodes.length <= FEW;
    const racks = [...Map.groupBy(nodes, (n) => `${n.spine}/${n.rack}`).values()];
    if (this.few) {
      const columns = Math.max(1, Math.min(Math.floor(width / 150), Math.max(...racks.map((r) => r.length), 1)));
      this.#cells = this.#layout(width, racks, [Math.min(Math.floor(width / columns) - GAP, 260), 44]);
    } else {
      for (let size = 40; size >= 4; size -= 1) {
        this.#cells = this.#layout(width, racks, size);
        if (this.total <= MOST_HEIGHT) break;
      }
    }
    const context = sized(this.canvas, width, Math.max(this.total, 20));
    context.font = FONT;
    context.textBaseline = "middle";
    for (const cell of this.#cells) {
      if (cell.first && racks.length > 1) {
        context.fillStyle = colour("soft");
        context.fillText(cut(context, `rack ${cell.node.rack}`, cell.wide + 4), cell.x, cell.y - LABEL / 2 - 1);
      }
      this.few ? this.#drawNamed(context, cell) : this.#drawCell(context, cell);
      if (this.#chosen?.node.row === cell.node.row) {
        context.strokeStyle = colour("ink");
        context.lineWidth = 1.5;
        context.strokeRect(cell.x - 0.5, cell.y - 0.5, this.width + 1, this.height + 1);
      }
    }
  }

  #drawCell(context, { node, x, y }) {
    context.fillStyle = node.state === 1 || node.state === 2 ? heat(used(node)) : colour("faint");
    context.fillRect(x, y, this.width, this.height);
    this.#drawMark(context, node, x, y, this.width, this.height);
  }

  /** A node with room for its name, and for each of its GPUs. */
  #drawNamed(context, { node, x, y }) {
    context.fillStyle = colour("faint");
    context.fillRect(x, y, this.width, this.height);
    context.fillStyle = node.state === 1 ? colour("ink") : colour(node.state === 3 ? "bad" : "warn");
    const state = node.state === 1 ? "" : ` · ${NODE_STATES[node.state]}`;
    context.fillText(cut(context, node.id + state, this.width - 16), x + 8, y + 14);
    const count = node.gpus || 1, each = (this.width - 16 - 2 * (count - 1)) / count;
    const busy = node.state === 3 ? 0 : used(node) * count;
    for (let k = 0; k < count; k += 1) {
      context.fillStyle = heat(0);
      context.fillRect(x + 8 + k * (each + 2), y + 26, each, 9);
      const share = Math.min(Math.max(busy - k, 0), 1);
      context.fillStyle = heat(0.7);
      context.fillRect(x + 8 + k * (each + 2), y + 26, each * share, 9);
    }
    this.#drawMark(context, node, x, y, this.width, this.height);
  }

  #drawMark(context, node, x, y, w, h) {
    if (node.state === 1) return;
    context.lineWidth = Math.max(1, Math.min(w, h) / 10);
    if (node.state === 3) {
      context.strokeStyle = colour("bad");
      context.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1);
      if (this.few) return;
      context.beginPath();
      context.moveTo(x + 2, y + 2); context.lineTo(x + w - 2, y + h - 2);
      context.moveTo(x + w - 2, y + 2); context.lineTo(x + 2, y + h - 2);
      context.stroke();
      return;
    }
    context.strokeStyle = colour("warn");
    if (node.state === 4) context.setLineDash([3, 2]);
    context.strokeRect(x + 1, y + 1, w - 2, h - 2);
    context.setLineDash([]);
  }

  #tell(nodes) {
    const counts = [0, 0, 0, 0, 0];
    for (const node of nodes) counts[node.state] += 1;
    const told = [1, 2, 3, 4].filter((s) => counts[s]).map((s) => `${number(counts[s])} ${NODE_STATES[s]}`).join(", ");
    say(this.note, told || "none yet");
    this.canvas.ariaLabel = `Nodes by rack and use: ${told}. Arrow keys walk through them, Enter opens one.`;
    if (!this.legend.childElementCount) {
      const swatch = (border, text) => { const i = make("i"); i.style.border = border; return make("span", i, text); };
      this.legend.append(make("span", "idle ", make("i.ramp"), "busy"), swatch("1.5px solid var(--bad)", "down"), swatch("1.5px solid var(--warn)", "draining"), swatch("1.5px dashed var(--warn)", "on order"));
    }
  }
}
