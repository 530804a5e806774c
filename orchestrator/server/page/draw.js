// Canvases: as sharp as the screen, in the colours of the page, with a tip and a keyboard.

const probe = document.createElement("span");
let known = new Map();
addEventListener("theme", () => { known = new Map(); });

/** A colour of the page by its name in page.css, as it is now. */
export function colour(name) {
  if (!known.has(name)) {
    if (!probe.isConnected) { probe.hidden = true; document.body.append(probe); }
    probe.style.color = `var(--${name})`;
    known.set(name, getComputedStyle(probe).color);
  }
  return known.get(name);
}

const parts = (text) => text.match(/[\d.]+/g).map(Number);
let ramp = { of: null, colours: [] };

/** The colour of a share in [0, 1]: 33 steps between the four of the page. */
export function heat(share) {
  const stops = ["heat0", "heat1", "heat2", "heat3"].map(colour);
  const key = stops.join();
  if (ramp.of !== key) {
    const points = stops.map(parts);
    ramp = { of: key, colours: Array.from({ length: 33 }, (_, k) => {
      const at = (k / 32) * 3, low = Math.min(Math.floor(at), 2), t = at - low;
      return `rgb(${[0, 1, 2].map((c) => Math.round(points[low][c] * (1 - t) + points[low + 1][c] * t)).join()})`;
    }) };
  }
  return ramp.colours[Math.round(32 * Math.min(Math.max(share, 0), 1))];
}

/** Make a canvas as large as it is shown, and clear it; its context in CSS pixels. */
export function sized(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  const w = Math.round(width * scale), h = Math.round(height * scale);
  const context = canvas.getContext("2d");
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.height = `${height}px`;
  }
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

export const FONT = "11px ui-sans-serif, system-ui, sans-serif";

/** A text, cut to a width. */
export function cut(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let n = Math.min(text.length, Math.floor(width / 5));
  while (n > 0 && context.measureText(`${text.slice(0, n)}…`).width > width) n -= 1;
  return n > 1 ? `${text.slice(0, n)}…` : "";
}

const tip = document.getElementById("tip");
function showTip(text, x, y) {
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - box.width - 8))}px`;
  tip.style.top = `${y + 14 + box.height > innerHeight ? y - box.height - 8 : y + 14}px`;
}

/**
 * What a canvas shows can be pointed at, and walked through by arrow keys.
 * `find(x, y)` gives the item there, `next(item, key)` the one beside it, `tell(item)` its text, `place(item)` [x, y].
 */
export function pointable(canvas, { find, next, tell, place, open, choose }) {
  let chosen = null;
  const select = (item, point) => {
    chosen = item;
    choose(item);
    canvas.style.cursor = item ? "pointer" : "";
    if (!item) { showTip(""); return; }
    const box = canvas.getBoundingClientRect();
    const [x, y] = point ?? place(item);
    showTip(tell(item), box.left + x, box.top + y);
    canvas.setAttribute("aria-valuetext", tell(item));
  };
  canvas.addEventListener("pointermove", (event) => select(find(event.offsetX, event.offsetY), [event.offsetX, event.offsetY]));
  canvas.addEventListener("pointerleave", () => select(null));
  canvas.addEventListener("blur", () => select(null));
  canvas.addEventListener("click", (event) => { const item = find(event.offsetX, event.offsetY); if (item) open(item); });
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && chosen) { event.preventDefault(); open(chosen); return; }
    if (!event.key.startsWith("Arrow") && event.key !== "Home" && event.key !== "End") return;
    event.preventDefault();
    select(next(chosen, event.key));
  });
}
