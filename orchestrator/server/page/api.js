// The server, with a token that stays in this tab. Streams are read by fetch: an EventSource cannot send one.

const KEY = "quartermaster-token";
const BASE = "/api/v1";
const FIRST_MS = 100, LONGEST_MS = 3000, SILENT_MS = 25000;

export class Refused extends Error {}

/** Take a token out of the address, if one is there, and out of the address bar with it. */
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(KEY, given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(KEY);
}
export const keepToken = (token) => sessionStorage.setItem(KEY, token);
export const forgetToken = () => sessionStorage.removeItem(KEY);

function ask(path, options = {}) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}`, ...options.headers };
  return fetch(BASE + path, { cache: "no-store", ...options, headers });
}

async function good(answer) {
  if (answer.ok) return answer;
  let detail = `${answer.status} ${answer.statusText}`;
  try { detail = (await answer.json()).detail ?? detail; } catch { /* it says no more */ }
  if (answer.status === 401 || answer.status === 403) throw new Refused(detail);
  throw new Error(detail);
}

export const getJson = async (path, signal) => (await good(await ask(path, { signal }))).json();
/** Ask a question that has a body; nothing is changed by it. */
export const postJson = async (path, body, signal) =>
  (await good(await ask(path, { signal, method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }))).json();
export const getText = async (path, signal) => (await good(await ask(path, { signal }))).text();

/** Events of a text/event-stream, one after the other. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = { id: "", data: "" };
      for (const line of block.split("\n")) {
        if (line.startsWith("data: ")) event.data += line.slice(6);
        else if (line.startsWith("id: ")) event.id = line.slice(4);
      }
      yield event;
    }
  }
}

/**
 * Follow a stream for ever: it resumes after its last event, and waits longer after every failure.
 * `onEvent(data)` gets parsed JSON, `onState("live" | "lost" | "refused", text)` how it goes.
 */
export async function follow(path, onEvent, onState, signal) {
  let last = "", wait = FIRST_MS;
  while (!signal.aborted) {
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    signal.addEventListener("abort", stop, { once: true });
    let watch = setTimeout(stop, SILENT_MS);
    try {
      const headers = { Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }) };
      const answer = await good(await ask(path, { headers, signal: attempt.signal }));
      onState("live", "live");
      for await (const event of eventsOf(answer.body)) {
        clearTimeout(watch);
        watch = setTimeout(stop, SILENT_MS);
        wait = FIRST_MS;
        if (!event.data) continue;
        onEvent(JSON.parse(event.data));
        last = event.id;
      }
    } catch (error) {
      if (error instanceof Refused) { onState("refused", error.message); return; }
    } finally {
      clearTimeout(watch);
      signal.removeEventListener("abort", stop);
    }
    if (signal.aborted) return;
    onState("lost", "reconnecting");
    await pause(wait * (0.5 + Math.random() / 2));
    wait = Math.min(wait * 2, LONGEST_MS);
  }
}

/** Wait, but not once the network is back, or somebody looks again. */
function pause(ms) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      removeEventListener("online", done);
      document.removeEventListener("visibilitychange", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    addEventListener("online", done);
    document.addEventListener("visibilitychange", done);
  });
}
