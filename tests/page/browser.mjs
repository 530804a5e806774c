// What scripts that drive the page share: a browser, a page that is watched, and steps that pytest takes.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const [endpoint, program = "/usr/bin/chromium"] = process.argv.slice(2);

/** Where the server answers, and its operator's token. */
export const server = () => JSON.parse(readFileSync(endpoint, "utf8"));

setTimeout(() => { console.log("the script has hung"); process.exit(2); }, 240000).unref();

const input = createInterface({ input: process.stdin });
const answers = input[Symbol.asyncIterator]();

/** Have pytest do something to the server: it answers on standard input when it is done. */
export async function step(name) {
  console.log(`step ${name}`);
  return (await answers.next()).value;
}

/** Ask the server, as a program would. */
export async function ask(path, body) {
  const { url, token } = server();
  const options = { headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" } };
  if (body !== undefined) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  const answer = await fetch(`${url}/api/v1${path}`, options);
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

/** Run a script with a browser; it fails if the page complains, or asks anybody else for anything. */
export async function drive(script) {
  const browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox", "--disable-gpu"] });
  const complaints = [];
  const watched = async (options = {}) => {
    const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(20000);
    page.on("console", (message) => { if (["error", "warning"].includes(message.type())) complaints.push(message.text()); });
    page.on("pageerror", (error) => complaints.push(String(error.stack)));
    page.on("request", (request) => { if (!request.url().startsWith(server().url)) complaints.push(`asks ${request.url()}`); });
    return page;
  };
  const opened = async (options) => {
    const page = await watched(options);
    await page.goto(`${server().url}/#token=${server().token}`);
    await page.waitForSelector("#lamp[data-state=live]");
    await page.waitForSelector("#main:not([hidden])");
    return page;
  };
  try {
    await script({ watched, opened, complaints });
  } finally {
    await browser.close();
    input.close();
    process.stdin.destroy(); // an open pipe would keep the process waiting
  }
  if (complaints.length) throw new Error(`the page complains:\n${complaints.join("\n")}`);
  console.log("done");
}
