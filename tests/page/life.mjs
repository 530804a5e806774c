// A job from its submission to its end, a node that is lost, a server that is killed and comes back.

import assert from "node:assert/strict";
import { ask, drive, step } from "./browser.mjs";

const figure = (page, name) => page.locator("#figures > div", { has: page.locator(`dt:text-is("${name}")`) }).locator("dd");
const event = (page, about, what) => page.locator("#events li", { hasText: about }).filter({ hasText: what });

await drive(async ({ opened, complaints }) => {
  const page = await opened();
  assert.equal(new URL(page.url()).hash, "", "the token stays in the address");
  assert.match(await figure(page, "nodes").innerText(), /^2 up/);

  // From submission to end: events, the chart, its details.
  const { job_id: id } = await ask("/jobs", { name: "hello", command: ["sh", "-c", "echo written; sleep 2"], gpus_per_worker: 1 });
  await event(page, id, "submitted").waitFor();
  await event(page, id, "started").waitFor();
  await page.click("#gangs .swap");
  const row = page.locator("#gangs tbody tr", { hasText: "hello" });
  await row.waitFor();
  assert.match(await row.innerText(), /running/);
  await row.getByRole("button").click();
  const detail = page.getByRole("dialog");
  await detail.getByText("running").first().waitFor();
  assert.match(await detail.innerText(), /echo written/);
  await detail.getByText(/^written$/m).waitFor();
  await detail.getByText("completed, exit code 0").waitFor();
  await page.keyboard.press("Escape");
  await event(page, id, "completed").waitFor();
  assert.match(await row.innerText(), /completed/);
  await page.click("#gangs .swap");

  // Somebody who waits, and why.
  const { job_id: large } = await ask("/jobs", { name: "large", command: ["true"], num_workers: 2, gpus_per_worker: 2, max_duration_hours: 1 });
  await event(page, large, "completed").waitFor();
  const { job_id: first } = await ask("/jobs", { name: "first", command: ["sleep", "60"], num_workers: 2, gpus_per_worker: 2, max_duration_hours: 1 });
  await event(page, first, "started").waitFor();
  await ask("/jobs", { name: "second", command: ["true"], gpus_per_worker: 2 });
  const waits = page.locator("#queue tbody tr", { hasText: "second" });
  await waits.waitFor();
  assert.match(await waits.innerText(), /^1\s[\s\S]*2 GPUs/);
  assert.match(await figure(page, "waiting").innerText(), /^1/);

  // A node is lost: the first of them whom anybody sees is drawn down.
  await page.evaluate(() => {
    window.shown = new Promise((resolve) => {
      addEventListener("drawn", ({ detail }) => { if (detail?.kind === "node" || document.querySelector("#nodes-note").textContent.includes("down")) resolve(Date.now()); });
    });
  });
  const killed = Number(await step("kill an agent"));
  const shown = await page.evaluate(() => window.shown);
  await page.getByText("1 up, 1 down").waitFor();
  console.log(`figure node_loss_ms ${shown - killed}`);
  assert.ok(shown - killed < 1000, `it took ${shown - killed} ms until the loss was shown`);
  await event(page, "node-1", "does not answer").waitFor();

  // The server is killed, and comes back: what was is still there, nothing is stale, and it goes on.
  await step("kill the server");
  await page.waitForSelector("#lamp[data-state=lost]");
  assert.ok(await page.locator("#main.stale").count(), "an old picture looks like a new one");
  complaints.length = 0; // that nobody answers is logged by the browser
  const before = await page.locator("#events li").count();
  await step("start the server");
  await page.waitForSelector("#lamp[data-state=live]");
  complaints.length = 0;
  await page.getByText(/^2 up$/).first().waitFor();
  assert.equal(await page.locator("#main.stale").count(), 0);
  const { job_id: after } = await ask("/jobs", { name: "after", command: ["true"] });
  await event(page, after, "completed").waitFor();
  assert.equal(await event(page, after, "submitted").count(), 1);
  assert.ok(before > 0 && (await event(page, id, "completed").count()) === 1, "what happened before is told once");
});
