// The page of an episode: it plays, goes by keyboard, can be read in light and dark, and asks nobody for anything.

import { chromium } from "playwright-core";

const [file, program, picture] = process.argv.slice(2);
const complaints = [];
const check = (holds, what) => { if (!holds) throw new Error(what); };
const browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox", "--disable-gpu"] });
try {
  for (const colorScheme of ["light", "dark"]) {
    const page = await browser.newPage({ viewport: { width: 1280, height: 1000 }, colorScheme });
    page.setDefaultTimeout(20000);
    page.on("console", (message) => { if (["error", "warning"].includes(message.type())) complaints.push(message.text()); });
    page.on("pageerror", (error) => complaints.push(String(error.stack)));
    page.on("request", (request) => { if (!request.url().startsWith("file:")) complaints.push(`asks ${request.url()}`); });
    await page.goto(`file://${file}`);
    const time = () => page.$eval("#time", (slider) => Number(slider.value));
    const text = (selector) => page.$eval(selector, (element) => element.textContent);
    const drawn = () => page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
    const painted = (selector) => page.$eval(selector, (canvas) => {
      const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
      copy.drawImage(canvas, 0, 0);
      const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
      const colours = new Set();
      for (let k = 0; k < data.length; k += 4) colours.add((data[k] << 16) | (data[k + 1] << 8) | data[k + 2]);
      return colours.size;
    });
    await page.waitForFunction(() => document.querySelector("#figures dd").textContent !== "–");
    check(await painted("#gangs canvas") > 5, "no bars are drawn");
    check(await painted("#curves canvas") > 2, "no curves are drawn");

    await page.keyboard.press("End");
    await drawn();
    const end = await time();
    check(end > 0, "the end is not where time goes");
    check(/ \/ /.test(await text("#figures")), "it is not said how many are done");
    await page.keyboard.press("Home");
    await drawn();
    check(await time() === 0, "Home does not go to the begin");
    for (let k = 0; k < 5; k += 1) await page.keyboard.press("ArrowRight");
    await drawn();
    const later = await time();
    check(later >= 0 && later < end, "steps do not go on");
    const why = await text("#why-note");
    check(/^decision \d+ of \d+/.test(why), `nothing is said of the decision: ${why}`);
    check((await page.$$("#why tbody tr.taken")).length === 1, "one alternative is taken");
    await page.keyboard.press("ArrowLeft");
    await drawn();
    check(await time() <= later, "a step back does not go back");

    await page.keyboard.press("2");
    await drawn();
    check(await page.$eval("#policy", (choice) => choice.value) === "1", "the second policy is not shown");
    await page.selectOption("#paint", "job");
    await drawn();
    check(await painted("#gangs canvas") > 5, "jobs have no colours");
    const before = await time();
    await page.$eval("#main", (main) => main.focus());
    await page.keyboard.press("Space");
    await page.waitForFunction((then) => Number(document.getElementById("time").value) > then, before);
    check(await text("#play") === "Pause", "it does not play");
    await page.keyboard.press("Space");
    const still = await time();
    await drawn();
    check(await time() === still, "it does not stop");
    check(await text("#play") === "Play", "it does not say that it has stopped");

    await page.keyboard.press("1");
    await page.selectOption("#paint", "slowdown");
    await page.$eval("#time", (slider) => { slider.value = Number(slider.max) * 0.6; slider.dispatchEvent(new Event("input")); });
    await drawn();
    if (picture) await page.screenshot({ path: `${picture}-${colorScheme}.png`, fullPage: true });
    await page.setViewportSize({ width: 390, height: 800 });
    await drawn();
    check(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it is wider than a telephone");
    await page.close();
  }
} finally {
  await browser.close();
}
if (complaints.length) throw new Error(`the page complains:\n${complaints.join("\n")}`);
console.log("done");
