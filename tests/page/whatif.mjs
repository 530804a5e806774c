// What if: a change is supposed, both futures are drawn over each other, and the cluster stays as it is.

import assert from "node:assert/strict";
import { ask, drive, server } from "./browser.mjs";
import { pale, unnamed, wide } from "./readable.mjs";

const LONG = { timeout: 150000 }; // kernels are compiled first, if they never were

/** How many points of a chart are in each of its two colours, as they are without what is behind them. */
function drawn(holder) {
  const probe = document.body.appendChild(document.createElement("span"));
  const hues = ["soft", "accent"].map((name) => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color.match(/\d+/g).map(Number); });
  probe.remove();
  const canvas = holder.querySelector("canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return hues.map((hue) => { let n = 0; for (let k = 0; k < data.length; k += 4) if (data[k + 3] > 0 && hue.every((c, i) => Math.abs(data[k + i] - c) < 9)) n += 1; return n; });
}

/** Have an answer to what the drawer asks. */
async function answered(page) {
  await page.locator("#whatif .comparison:not([hidden]):not(.stale)").waitFor(LONG);
  return page.locator("#whatif .verdict").innerText();
}

await drive(async ({ opened, complaints }) => {
  const page = await opened({ colorScheme: "light" });
  await page.locator("#queue tbody tr").first().waitFor();

  // By keyboard: opened, asked, answered, closed.
  const drawer = page.getByRole("dialog", { name: "What if" });
  await page.getByRole("button", { name: "What if" }).focus();
  await page.keyboard.press("Enter");
  await drawer.waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "whatif-kind");
  assert.deepEqual(await page.evaluate(unnamed), []);
  await drawer.getByLabel("workers", { exact: true }).fill("2");
  await drawer.getByLabel("GPUs of each").fill("8");
  await page.keyboard.press("Enter");
  const submitted = await answered(page);
  assert.match(submitted, /If job what-if-\w+ is submitted: (no difference|better|worse|rather better|rather worse)/);
  assert.match(submitted, /The new job starts (in|at once)/);
  for (const name of [/^Jobs that wait: now \d/, /^GPUs in use: now \d/]) {
    const points = await drawer.getByRole("img", { name }).evaluate(drawn);
    assert.ok(points.every((n) => n > 50), `a future is not drawn: ${points}`);
  }
  assert.ok((await drawer.locator("tbody tr:not(.group)").count()) >= 3);
  assert.match(await drawer.locator(".sources").innerText(), /^Asked at .*: 100 futures under rule \w+; .* Not in it: failures/);
  assert.deepEqual(await page.evaluate(unnamed), []);
  assert.deepEqual(await page.evaluate(pale), []);
  await page.emulateMedia({ colorScheme: "dark" });
  assert.deepEqual(await page.evaluate(pale), []);
  assert.ok((await drawer.getByRole("img", { name: /in use/ }).evaluate(drawn)).every((n) => n > 50), "charts keep the colours of the day");
  await page.keyboard.press("Escape");
  assert.equal(await page.getByRole("dialog").count(), 0);
  assert.equal(await page.evaluate(() => document.activeElement.id), "ask");

  // Every kind of change can be supposed; what is refused says why, and what to do.
  await page.keyboard.press("Enter");
  const known = async (field) => drawer.locator(`#whatif-${field}-known option`).first().getAttribute("value");
  for (const [kind, field, value] of [["nodes", "like", null], ["cancel", "job", null], ["priority", "waiting", null], ["quota", "owner", null], ["policy", "rule", "sjf"], ["fail", "node", "node-1"]]) {
    await drawer.getByLabel("Suppose that").selectOption(kind);
    const input = drawer.locator(`#whatif-${field}`);
    if (value && kind === "policy") await input.selectOption(value); else await input.fill(value ?? await known(field));
    await drawer.getByRole("button", { name: "Compare" }).click();
    await drawer.locator(".comparison:not(.stale), .bad:not(:empty)").first().waitFor(LONG);
  }
  assert.match(await answered(page), /If node node-1 fails: .*/);
  complaints.length = 0; // a job may have ended meanwhile, and that is refused
  await drawer.getByLabel("Suppose that").selectOption("drain");
  await drawer.getByLabel("node", { exact: true }).fill("nowhere");
  await page.keyboard.press("Enter");
  const problem = drawer.getByRole("alert");
  await problem.filter({ hasText: "no node 'nowhere'" }).waitFor(LONG);
  assert.match(await problem.innerText(), /; .+/, "it does not say what to do");
  complaints.length = 0; // the browser logs the refusal
  await page.keyboard.press("Escape");

  // From what is looked at.
  await page.locator("#nodes canvas").focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "it is drained" }).click();
  assert.match(await answered(page), /If node node-0 is drained: /);
  await page.keyboard.press("Escape");
  await page.keyboard.press("Escape");
  await page.context().close();

  // By a link, on a telephone.
  const phone = await opened({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
  await phone.goto("about:blank");
  await phone.goto(`${server().url}/#token=${server().token}&what-if=nodes&like=node-0&count=2`);
  assert.match(await answered(phone), /If 2 more like node node-0: /);
  assert.equal(await wide(phone), 0, "it is wider than the screen");
  assert.equal(await phone.locator("#whatif").evaluate((e) => e.scrollWidth - e.clientWidth), 0, "the drawer is wider than the screen");
  assert.ok(!phone.url().includes(server().token), "the token stays in the address");

  // Nothing was done.
  const { items } = await ask("/nodes");
  assert.equal(items.length, 4 + items.filter(({ node_id: id }) => !/^node-\d$/.test(id)).length);
  assert.ok(items.filter(({ node_id: id }) => /^node-[0-3]$/.test(id)).every(({ state }) => state === "up"), JSON.stringify(items));
  assert.ok((await ask("/jobs?limit=1000")).items.every(({ job_id: id }) => !/^what-if|~$/.test(id)), "a job was submitted");
});
