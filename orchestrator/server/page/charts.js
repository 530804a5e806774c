// Time series by uPlot, in the page's colours and width.

import { FONT, colour } from "./draw.js";

export class Chart {
  #plot = null;

  /** `series`: [label, colour, scale, options]; `scales`: uPlot's, by name; `across`: of the axis below. */
  constructor(holder, { height = 150, series, scales, axes, bands, across }) {
    this.holder = holder;
    this.given = { height, series, scales, axes, bands, across };
    this.data = [[], ...series.map(() => [])];
    new ResizeObserver(() => this.#fit()).observe(holder);
    addEventListener("theme", () => { this.#plot?.destroy(); this.#plot = null; this.#make(); });
  }

  #make() {
    const { height, series, scales, axes, bands, across } = this.given;
    const width = Math.floor(this.holder.clientWidth);
    if (!width) return;
    const axis = { stroke: colour("soft"), font: FONT, grid: { stroke: colour("faint"), width: 1 }, ticks: { show: false } };
    this.#plot = new uPlot({
      width, height, padding: [6, across ? 12 : 0, 0, 0],
      cursor: { points: { size: 5 }, drag: { x: false, y: false } },
      legend: { show: false },
      scales: { x: { time: true }, ...scales },
      axes: [
        { ...axis, size: 26, gap: 7, grid: { show: false }, values: "{HH}:{mm}:{ss}", space: 84, ...across },
        ...axes.map((own) => ({ ...axis, size: 40, gap: 4, space: 28, ...own })),
      ],
      series: [{}, ...series.map(([label, hue, scale, own]) => ({
        label, scale, stroke: hue && colour(hue), width: 1.4, points: { show: false }, spanGaps: true, ...own,
        ...(own?.fill && { fill: tint(own.fill) }),
      }))],
      ...(bands && { bands: bands.map((band) => ({ ...band, fill: tint(band.fill) })) }),
    }, this.data, this.holder);
  }

  #fit() {
    if (!this.#plot) { this.#make(); return; }
    const width = Math.floor(this.holder.clientWidth);
    if (width && width !== this.#plot.width) this.#plot.setSize({ width, height: this.given.height });
  }

  show(data) {
    this.data = data;
    if (this.#plot) this.#plot.setData(data); else this.#make();
  }

  remove() { this.#plot?.destroy(); }
}

const tint = (name) => colour(name).replace("rgb(", "rgba(").replace(")", ", 0.18)");
