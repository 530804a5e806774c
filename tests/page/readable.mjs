// Whether a page can be read: contrast, names for those who listen, and its width. Evaluated in the page.

/** Text whose contrast with what is behind it is below AA. */
export function pale() {
  const channel = (c) => { const s = c / 255; return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; };
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = (text) => text.match(/[\d.]+/g).map(Number);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.textContent.trim());
    if (!own || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(parse(style.color)), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const least = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if (ratio < least) found.push(`${element.tagName} '${element.textContent.slice(0, 30)}': ${ratio.toFixed(2)}`);
  }
  return found;
}

/** What those who cannot see it would miss. */
export function unnamed() {
  const found = [];
  const name = (e) => e.ariaLabel || e.getAttribute("aria-labelledby")?.split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join("") || e.labels?.[0]?.textContent || e.textContent || e.title;
  const say = (e, what) => found.push(`${e.tagName.toLowerCase()}#${e.id}.${e.className}: ${what}`);
  for (const e of document.querySelectorAll("button, select, input, canvas, [role=img], [role=region], section, dialog[open]"))
    if (e.checkVisibility() && !e.closest(".uplot") && !name(e)?.trim()) say(e, "has no name");
  for (const e of document.querySelectorAll("canvas")) if (e.checkVisibility() && !e.closest(".uplot") && e.tabIndex !== 0) say(e, "cannot be reached by keyboard");
  for (const e of document.querySelectorAll(".uplot")) if (!e.closest("[role=img]")) say(e, "is a picture that nobody describes");
  for (const e of document.querySelectorAll("table")) if (!e.caption || [...e.querySelectorAll("thead th")].some((th) => th.scope !== "col")) say(e, "has no caption or headings");
  for (const e of document.querySelectorAll("[aria-controls], [aria-describedby], [aria-labelledby], [for]"))
    for (const key of ["aria-controls", "aria-describedby", "aria-labelledby", "for"])
      for (const id of (e.getAttribute(key) ?? "").split(" ").filter(Boolean)) if (!document.getElementById(id)) say(e, `${key} is about nothing`);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of new Set(ids)) if (ids.filter((other) => other === id).length > 1) found.push(`two elements are #${id}`);
  let level = 0;
  for (const h of document.querySelectorAll("h1, h2, h3")) {
    const own = Number(h.tagName[1]);
    if (h.checkVisibility() && own > level + 1) say(h, "skips a level of headings");
    if (h.checkVisibility()) level = own;
  }
  if (document.querySelectorAll("main").length !== 1 || document.querySelectorAll("h1").length !== 1 || !document.documentElement.lang) found.push("no main, no h1 or no language");
  if (!document.querySelector("[aria-live=polite]")) found.push("news are not said");
  return found;
}

/** By how much it is wider than the screen. */
export const wide = (page) => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
