// Pictures a second with a large cluster, and the time from an event to its pixels.

import { drive, step } from "./browser.mjs";

const FOR_S = 8, EVENTS = 50;
const percentile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];

/** Pictures a second, the longest gap, and how long scripts took for one, in the page. */
function count(seconds) {
  return new Promise((resolve) => {
    const times = [];
    let frames = 0;
    const hear = () => { frames += 1; };
    addEventListener("drawn", hear);
    const turn = (now) => {
      times.push(now);
      if (now - times[0] < 1000 * seconds) { requestAnimationFrame(turn); return; }
      removeEventListener("drawn", hear);
      const gaps = times.slice(1).map((t, k) => t - times[k]).sort((a, b) => a - b);
      resolve({ fps: (times.length - 1) / ((now - times[0]) / 1000), median: gaps[gaps.length >> 1], longest: gaps.at(-1), told: frames / seconds });
    };
    requestAnimationFrame(turn);
  });
}

/** Submit a job, and wait until its first event is on the screen: milliseconds. */
function submit(token) {
  return new Promise((resolve, reject) => {
    const begun = performance.now();
    let id = null;
    const seen = new Set();
    const done = () => {
      if (id === null || !seen.has(id)) return;
      removeEventListener("drawn", hear);
      requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - begun)));
    };
    const hear = () => {
      for (const button of [...document.querySelectorAll("#events li button")].slice(0, 40)) seen.add(button.title);
      done();
    };
    addEventListener("drawn", hear);
    const options = { method: "POST", headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" }, body: JSON.stringify({ name: "probe", max_duration_hours: 0.001 }) };
    fetch("/api/v1/jobs", options).then((answer) => answer.json()).then((told) => { id = told.job_id; done(); }, reject);
  });
}

/** How old the newest event is when it has been drawn, for so long: milliseconds. The clocks are one machine's. */
function ages(seconds) {
  return new Promise((resolve) => {
    const found = [];
    let last = null;
    const hear = ({ detail }) => {
      if (!detail || detail.cursor === last) return;
      const first = last === null; // nobody knows when it came
      last = detail.cursor;
      if (first) return;
      requestAnimationFrame(() => setTimeout(() => found.push(Date.now() - detail.time_ms)));
    };
    addEventListener("drawn", hear);
    setTimeout(() => { removeEventListener("drawn", hear); resolve(found); }, 1000 * seconds);
  });
}

function tell(name, values) {
  values.sort((a, b) => a - b);
  console.log(`figure ${name}_p50 ${percentile(values, 0.5)}`);
  console.log(`figure ${name}_p95 ${percentile(values, 0.95)}`);
}

await drive(async ({ opened }) => {
  const { token, submit: few } = JSON.parse(await step("wait"));
  const page = await opened();
  await page.waitForTimeout(2000);
  const frames = await page.evaluate(count, FOR_S);
  for (const [name, value] of Object.entries(frames)) console.log(`figure ${name} ${value}`);
  tell("event_to_pixel", await page.evaluate(ages, 2 * FOR_S));
  if (!few) return;
  const took = [];
  for (let k = 0; k < EVENTS; k += 1) {
    took.push(await page.evaluate(submit, token));
    await page.waitForTimeout(50 + 100 * Math.random());
  }
  tell("submit_to_pixel", took);
});
