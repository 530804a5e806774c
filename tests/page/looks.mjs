// On a telephone, in the dark, by keyboard, and for those who listen; and the door without a token.

import assert from "node:assert/strict";
import { drive, server } from "./browser.mjs";
import { pale, unnamed, wide } from "./readable.mjs";

/** What a server with a learned policy in its shadow tells of it. */
const POLICY = { mode: "shadow", rule: "priority", share: 0, candidate: { name: "ranker", points: 40, agreement: 0.75, latency_ms: { p50: 0.2, p99: 1.25 } } };
const DECISION = { id: 7, time_ms: 1.8e12, plan: ["place one", "place two"], latency_us: 420, verdict: "shadowed", detail: "", alternatives: [{ action: "place one", score: 2.5 }, { action: "wait", score: -1.25 }] };

const paper = (page) => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);

await drive(async ({ watched, opened, complaints }) => {
  // The door.
  const door = await watched();
  await door.goto(server().url);
  await door.getByLabel("Token").fill("nobody's");
  await door.getByRole("button", { name: "Open" }).click();
  await door.locator("#door-error:not(:empty)").waitFor();
  complaints.length = 0; // the browser logs the refusal
  assert.ok(await door.locator("#main").isHidden());
  await door.getByLabel("Token").fill(server().token);
  await door.keyboard.press("Enter");
  await door.waitForSelector("#lamp[data-state=live]");
  assert.equal(await door.evaluate(() => localStorage.length), 0, "the token is kept for other tabs");
  await door.getByRole("button", { name: "Forget token" }).click();
  assert.equal(await door.evaluate(() => sessionStorage.length), 0);
  await door.context().close();

  // Light and dark.
  const page = await opened({ colorScheme: "light" });
  await page.locator("#queue tbody tr").first().waitFor();
  await page.locator("#services .uplot").waitFor();
  // From when to when whoever waits is likely to start; the twin's kernels are compiled first, if they never were.
  await page.locator("#queue td.band", { hasText: /\d.* – .*\d/ }).first().waitFor({ timeout: 150000 });
  assert.deepEqual(await page.evaluate(unnamed), []);
  assert.deepEqual(await page.evaluate(pale), []);
  const light = await paper(page);
  await page.getByLabel("Colours").selectOption("dark");
  assert.notEqual(await paper(page), light);
  assert.deepEqual(await page.evaluate(pale), []);
  await page.reload();
  await page.waitForSelector("#lamp[data-state=live]");
  assert.notEqual(await paper(page), light, "the choice is forgotten");
  await page.getByLabel("Colours").selectOption("");
  assert.equal(await paper(page), light);
  await page.emulateMedia({ colorScheme: "dark" });
  assert.notEqual(await paper(page), light);

  // By keyboard: past the head, through the nodes, into a job and back.
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  await page.keyboard.press("Tab");
  assert.match(await page.evaluate(() => document.activeElement.textContent), /as a table/);
  await page.keyboard.press("Enter");
  await page.locator("#nodes tbody tr").first().waitFor();
  assert.equal(await page.locator("#nodes tbody tr").count(), 4);
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "CANVAS");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  assert.match(await page.locator("#tip").innerText(), /node-1\s+up/);
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: "node-1" }).waitFor();
  await page.keyboard.press("Escape");
  await page.locator("#gangs canvas").focus();
  await page.keyboard.press("Home");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").getByText("History").waitFor();
  assert.deepEqual(await page.evaluate(pale), []);
  assert.deepEqual(await page.evaluate(unnamed), []);
  await page.keyboard.press("Escape");
  assert.equal(await page.getByRole("dialog").count(), 0);
  await page.context().close();

  // Decisions of a learned policy, beside what it could have done.
  const decided = await watched();
  await decided.route("**/api/v1/policy", (route) => route.fulfill({ json: POLICY }));
  await decided.route("**/api/v1/policy/decisions?*", (route) => route.fulfill({ json: { items: [DECISION], next_cursor: null } }));
  await decided.route("**/api/v1/view/stream", (route) => route.fulfill({ contentType: "text/event-stream", body: `id: x-1\ndata: ${JSON.stringify({ reset: true, now_ms: 1.8e12, policy: { name: "other", deployed: true } })}\n\n` }));
  await decided.goto(`${server().url}/#token=${server().token}`);
  await decided.locator("#decisions .choice.taken", { hasText: "place one" }).waitFor();
  const text = await decided.locator("#decisions").innerText();
  for (const part of ["ranker in the shadow", "agrees with priority in 75 % of 40 points", "place one and 1 more", "0.42 ms", "wait", "-1.250"]) assert.ok(text.includes(part), `'${part}' is not in '${text}'`);
  assert.equal(await decided.locator("#charge").innerText(), "priority");
  await decided.context().close();

  // On a telephone.
  const phone = await opened({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
  await phone.locator("#queue tbody tr").first().waitFor();
  assert.equal(await wide(phone), 0, "it is wider than the screen");
  for (const id of ["nodes", "gangs"]) await phone.click(`#${id} .swap`);
  assert.equal(await wide(phone), 0, "its tables are wider than the screen");
  await phone.locator("#queue tbody button").first().click();
  await phone.getByRole("dialog").getByText("waits for").waitFor();
  assert.equal(await wide(phone), 0, "its details are wider than the screen");
});
