// The page: asks for a token, follows the cluster, and hands what comes to those who draw it.

import { follow, forgetToken, keepToken, takeToken } from "./api.js";
import { Decisions } from "./decisions.js";
import { Detail } from "./detail.js";
import { Events } from "./events.js";
import { Gantt } from "./gantt.js";
import { HeatMap } from "./heatmap.js";
import { Queue } from "./queue.js";
import { Services } from "./services.js";
import { Store } from "./store.js";
import { Tenants } from "./tenants.js";
import { Scaling, Totals } from "./totals.js";
import { WhatIf } from "./whatif.js";

const $ = (id) => document.getElementById(id);
const store = new Store();
const detail = new Detail(store, (kind, said) => whatIf.open(kind, said));
const openJob = (id) => detail.openJob(id);
const whatIf = new WhatIf(store, openJob);

new Totals(store);
new Scaling(store);
new Queue(store, openJob);
new Tenants(store);
new Services(store);
new Decisions(store);
new Events(store, openJob);
const views = { nodes: new HeatMap(store, (node) => detail.openNode(node)), gangs: new Gantt(store, openJob) };
for (const [id, view] of Object.entries(views)) {
  const button = document.querySelector(`#${id} .swap`);
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    view.swap(on);
  });
}

let stop = null;
let asked = askedFor(); // of the address: a question, to be asked once the cluster is known

/** What follows the hash: `what-if=drain&node=node-1` is a question. */
function askedFor() {
  const { "what-if": kind, ...said } = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  return kind === undefined ? null : { kind, said };
}

function showState(state, text) {
  $("lamp").dataset.state = state;
  if ($("link").textContent !== text) $("link").textContent = text;
  $("main").classList.toggle("stale", state !== "live");
  if (state === "refused") askToken(text);
}

function askToken(problem = "") {
  stop?.abort();
  forgetToken();
  $("door-error").textContent = problem;
  $("door").hidden = false;
  $("main").hidden = $("leave").hidden = $("ask").hidden = true;
  $("token").focus();
}

function open() {
  stop?.abort();
  stop = new AbortController();
  $("door").hidden = true;
  $("leave").hidden = false;
  follow("/view/stream", (frame) => {
    store.apply(frame);
    $("main").hidden = $("ask").hidden = false;
    if (asked) { whatIf.open(asked.kind, asked.said); asked = null; }
  }, showState, stop.signal);
}

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken($("token").value.trim());
  $("token").value = "";
  open();
});
$("leave").addEventListener("click", () => { showState("off", "not connected"); askToken(); });
$("ask").addEventListener("click", () => whatIf.open());
addEventListener("hashchange", () => { if (new URLSearchParams(location.hash.slice(1)).has("token")) { takeToken(); open(); } });

if (takeToken()) open(); else askToken();
