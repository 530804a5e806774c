// The player: one clock for all that is shown, moved by the slider, the keyboard, or by itself.

import { Bars } from "./bars.js";
import { Curves } from "./curves.js";
import { duration, say } from "./format.js";
import { Panels } from "./panels.js";
import { Episode, lastBy } from "./times.js";

const SECONDS = 40; // that a whole episode takes at speed 1
const SHARES = [["all of it", 1], ["a quarter", 1 / 4], ["a sixteenth", 1 / 16], ["a 64th", 1 / 64], ["a 256th", 1 / 256]];

class Player {
  #playing = false;
  #before = 0;
  #asked = false;

  constructor(episodes) {
    this.episodes = episodes;
    this.episode = episodes[0];
    this.longest = { end: Math.max(...episodes.map(({ end }) => end), 1) };
    this.time = 0;
    this.picked = null; // a moment that was stepped to
    const names = ["play", "back", "on", "time", "clock", "speed", "policy", "span", "paint"];
    this.parts = Object.fromEntries(names.map((name) => [name, document.getElementById(name)]));
    this.parts.time.max = this.longest.end;
    this.parts.policy.append(...episodes.map(({ policy }, k) => new Option(policy, k)));
    this.parts.span.append(...SHARES.map(([name, share]) => new Option(name, share)));
    this.bars = new Bars(this);
    this.curves = new Curves(this);
    this.panels = new Panels(this);
    this.#listen();
    const asked = new URLSearchParams(location.hash.slice(1)); // of a link: shares of the time, and what is shown of it
    if (SHARES.some(([, share]) => share === Number(asked.get("span")))) this.parts.span.value = Number(asked.get("span"));
    this.go(this.longest.end * (Number(asked.get("t")) || 0.35));
  }

  #listen() {
    this.parts.play.addEventListener("click", () => this.play(!this.#playing));
    this.parts.back.addEventListener("click", () => this.step(-1));
    this.parts.on.addEventListener("click", () => this.step(1));
    this.parts.time.addEventListener("input", () => this.go(Number(this.parts.time.value)));
    this.parts.policy.addEventListener("change", () => this.choose(Number(this.parts.policy.value)));
    for (const each of [this.parts.span, this.parts.paint]) each.addEventListener("change", () => this.draw());
    document.addEventListener("keydown", (event) => this.#key(event));
    addEventListener("theme", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(document.getElementById("main"));
  }

  #key(event) {
    const { key, target } = event;
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || target.closest("select")) return;
    const number = Number(key) - 1;
    if (key === " " && target.closest("button")) return;
    if (key === " ") this.play(!this.#playing);
    else if (key === "ArrowRight") this.step(event.shiftKey ? 10 : 1);
    else if (key === "ArrowLeft") this.step(event.shiftKey ? -10 : -1);
    else if (key === "Home") this.go(0);
    else if (key === "End") this.go(this.episode.end);
    else if (Number.isInteger(number) && this.episodes[number]) this.choose(number);
    else return;
    event.preventDefault();
  }

  choose(k) {
    this.episode = this.episodes[k];
    this.picked = null;
    this.parts.policy.value = k;
    this.draw();
  }

  /** So many decisions on (or changes, where none is explained), or back; some are at the same time. */
  step(count) {
    const { moments } = this.episode;
    const at = this.picked ?? lastBy(moments, this.time);
    const back = count < 0 && this.picked === null && at >= 0 && moments[at] < this.time ? 1 : 0;
    const next = Math.min(Math.max(at + count + back, 0), moments.length - 1);
    this.play(false);
    this.go(moments[next] ?? this.time);
    this.picked = next;
  }

  go(time) {
    this.picked = null;
    this.time = Math.min(Math.max(time, 0), this.longest.end);
    this.draw();
  }

  play(on) {
    if (on && this.time >= this.episode.end) this.time = 0;
    this.#playing = on;
    this.parts.play.setAttribute("aria-pressed", on);
    say(this.parts.play, on ? "Pause" : "Play");
    if (!on) return;
    this.#before = performance.now();
    requestAnimationFrame((now) => this.#turn(now));
  }

  #turn(now) {
    if (!this.#playing) return;
    const share = this.parts.span.value === "1" ? 1 : Number(this.parts.span.value) * 2;
    this.go(this.time + ((now - this.#before) / 1000 / SECONDS) * this.episode.end * Number(this.parts.speed.value) * share);
    this.#before = now;
    if (this.time >= this.episode.end) { this.play(false); return; }
    requestAnimationFrame((next) => this.#turn(next));
  }

  /** Draw with the next picture of the screen, once however often it is asked for. */
  draw() {
    if (this.#asked) return;
    this.#asked = true;
    requestAnimationFrame(() => {
      this.#asked = false;
      const share = Number(this.parts.span.value);
      this.parts.time.value = this.time;
      say(this.parts.clock, `${duration(this.time)} of ${duration(this.episode.end)}`);
      this.bars.draw(this.episode, this.time, share);
      this.bars.tell(this.episode);
      this.curves.draw(this.episodes, this.episode, this.time, share);
      this.panels.show(this.episode, this.time);
    });
  }
}

new Player(JSON.parse(document.getElementById("data").textContent).map((data) => new Episode(data)));
