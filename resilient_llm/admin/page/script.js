"use strict";
// The page asks for targets, chains and budgets every two seconds, and at once when an event says that
// something changed. Nothing here builds HTML from text: whatever an operator or a provider wrote
// becomes textContent.

const POLL = 2000, POLL_HIDDEN = 15000, SOON = 250, APART = 700, ANSWER = 10000, SILENT = 40000;
const MOST_EVENTS = 1000, MOST_SHOWN = 200, MOST_ROWS = 500, POINTS = 60;
const IMPORTANT = new Set(["TargetBenched", "TargetUnbenched", "CallFailed", "ToolLoopDetected",
  "ObserverFailed", "BudgetWarning", "BudgetExceeded", "StoreUnavailable", "StoreAvailable",
  "StoreLost", "ConfigReloaded", "ConfigReloadFailed", "dropped"]);
const MEANING = {
  auth_dead: "Credentials, billing or the name of the model: a person must act.",
  rate_limited: "The provider asked for a pause.",
  transient: "The provider fails or is unreachable.",
  memory_pressure: "The server ran out of memory.",
};

const STORE_FAULTS = {
  unreachable: "it cannot be reached",
  timeout: "it does not answer in time",
  auth: "it refuses the user or the password",
  read_only: "it can be read and not written",
  full: "it is full",
  corrupt: "its file is damaged",
  newer_schema: "a newer release has written it",
  network_filesystem: "it is on a network file system",
  error: "it answers with an error",
};

const $ = (id) => document.getElementById(id);
const state = {
  token: "", canWrite: false, targets: [], chains: [], config: null, spend: [], store: null, events: [], lastEventId: "0",
  clockOffset: 0, answeredAt: 0, isAsking: false, timer: 0, isPaused: false, isStreaming: false,
  stream: 0,
};

// ---- small helpers

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function flag(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

// Control characters, and marks that turn the direction of text, are shown as what they are.
function shown(text) {
  return String(text).replace(
    /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]/g,
    (each, at, all) => {
      const code = each.charCodeAt(0);
      if (code >= 0xd800 && all.isWellFormed && all.isWellFormed()) return each;
      return "\\u" + code.toString(16).padStart(4, "0");
    });
}

const now = () => Date.now() + state.clockOffset;
const two = (number) => String(number).padStart(2, "0");

function clock(moment) {
  const date = new Date(moment), today = new Date(now());
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  if (date.toDateString() === today.toDateString()) return time;
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${time}`;
}

function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two(Math.floor(whole % 3600 / 60))} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor(whole % 86400 / 3600)} h`;
}

function seconds(value) {
  if (value === null) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return `${value.toFixed(value < 10 ? 2 : 1)} s`;
}

const plural = (count, one, many) => `${count} ${count === 1 ? one : many || one + "s"}`;
const providerOf = (key) => key.split("/")[0];

function why(bench) {
  if (bench.reason) return shown(bench.reason);
  return bench.manual ? "no reason given" : bench.kind || "benched";
}

const from = (one) => one.source && one.source !== "local" ? `, from ${shown(one.source)}` : "";

function who(bench) {
  if (!bench.manual) return (bench.kind ? `automatic, ${bench.kind}` : "automatic") + from(bench);
  return (bench.by ? `by ${shown(bench.by)}` : "by hand") + from(bench);
}

function until(bench) {
  return bench.until === null ? "until unbenched" : `until ${clock(bench.until)}`;
}

// ---- the token

const STORED = `resilient_llm token ${location.pathname}`;

function stored() {
  try { return sessionStorage.getItem(STORED) || ""; } catch { return ""; }
}

function keep(token) {
  state.token = token;
  try {
    if (token) sessionStorage.setItem(STORED, token); else sessionStorage.removeItem(STORED);
  } catch { /* this browser keeps nothing, so the token is asked for again after a reload */ }
  $("sign-out").hidden = !token;
}

function takeFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return false;
  keep(given);
  // Out of the address, which is shown on screens and kept in histories.
  history.replaceState(null, "", location.pathname + location.search);
  return true;
}

function askForToken(wasWrong) {
  $("token-wrong").hidden = !wasWrong;
  $("main").hidden = true;
  put($("summary"), "Token needed");
  flag($("summary"), "data-status", "");
  if (!$("token-dialog").open) $("token-dialog").showModal();
  $("token").select();
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("token").value.trim();
  if (!given) return;
  $("token").value = "";
  $("token-dialog").close();
  keep(given);
  begin();
});
$("token-dialog").addEventListener("cancel", (event) => event.preventDefault());
$("sign-out").addEventListener("click", () => {
  keep("");
  stopStream();
  clearTimeout(state.timer);
  askForToken(false);
});

// ---- asking the API

class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

function headers(more) {
  const all = { ...more };
  // Only what a header can carry; anything else cannot be the token.
  if (/^[\x21-\x7e]+$/.test(state.token)) all.Authorization = `Bearer ${state.token}`;
  return all;
}

async function call(path, options = {}) {
  const answer = await fetch(path, {
    cache: "no-store", redirect: "error", signal: AbortSignal.timeout(ANSWER), ...options,
    headers: headers(options.headers),
  });
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  let detail = `the server answered ${answer.status}`;
  try { detail = (await answer.json()).detail || detail; } catch { /* not from this API */ }
  throw new Refused(answer.status, detail);
}

function refused(error) {
  if (error.status === 401) {
    const wasWrong = state.token !== "";
    keep("");
    stopStream();
    clearTimeout(state.timer);
    askForToken(wasWrong);
    return true;
  }
  return false;
}

// ---- keeping up to date

async function begin() {
  clearTimeout(state.timer);
  try {
    const api = await call("api/openapi.json");
    state.canWrite = Boolean(api.paths["/api/benches"].post);
  } catch (error) {
    if (refused(error)) return;
    state.canWrite = false;
  }
  $("bench-other").hidden = !state.canWrite;
  await refresh();
  if (state.answeredAt) startStream();
}

function schedule(delay) {
  clearTimeout(state.timer);
  state.timer = setTimeout(refresh, delay);
}

async function refresh() {
  clearTimeout(state.timer);
  if (state.isAsking) return;
  state.isAsking = true;
  const beganAt = performance.now();
  state.isStirred = false;
  let isRefused = false;
  try {
    const [targets, chains, config, spend, store] = await Promise.all(
      [call("api/targets"), call("api/chains"), call("api/config"), call("api/spend"), call("api/store")]);
    if (targets.length) state.clockOffset = Date.parse(targets[0].checked_at) - Date.now();
    state.targets = targets;
    state.chains = chains;
    state.config = config;
    state.spend = spend;
    state.store = store;
    state.answeredAt = Date.now();
    state.failure = "";
    $("main").hidden = false;
    render();
  } catch (error) {
    isRefused = refused(error);
    state.failure = error instanceof Refused ? error.message : "the server does not answer";
  } finally {
    state.isAsking = false;
  }
  if (isRefused) return;
  showConnection();
  const pause = state.isStirred ? APART : document.hidden ? POLL_HIDDEN : POLL;
  schedule(Math.max(SOON, pause - (performance.now() - beganAt)));
}

// Something happened: ask soon, but not more often than every APART milliseconds.
function stir() {
  if (state.isStirred) return;
  state.isStirred = true;
  if (!state.isAsking) schedule(Math.max(SOON, APART - (Date.now() - state.answeredAt)));
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && state.answeredAt) refresh();
});

function showConnection() {
  const element = $("connection");
  const isStale = Boolean(state.failure);
  const text = isStale
    ? state.answeredAt ? `stale since ${clock(state.answeredAt + state.clockOffset)}` : "no connection"
    : state.isStreaming ? "live" : "live, events interrupted";
  flag(element, "data-state", isStale ? "stale" : "live");
  put($("connection-text"), text);
  document.body.classList.toggle("stale", isStale);
  const alert = $("alert");
  const said = isStale ? `What is shown may be old: ${state.failure}. Trying again.` : "";
  alert.hidden = !isStale;
  put(alert, said);
}

// ---- events

function stopStream() {
  state.stream += 1;
  state.isStreaming = false;
  if (state.abort) state.abort.abort();
}

async function startStream() {
  stopStream();
  const mine = state.stream;
  let wait = 1000;
  while (mine === state.stream) {
    const abort = state.abort = new AbortController();
    let timer = setTimeout(() => abort.abort(), SILENT);
    try {
      const answer = await fetch("api/events", {
        cache: "no-store", redirect: "error", signal: abort.signal,
        headers: headers({ Accept: "text/event-stream", "Last-Event-ID": state.lastEventId }),
      });
      if (answer.status === 401) { refused(new Refused(401, "")); return; }
      if (answer.ok) {
        wait = 1000;
        state.isStreaming = true;
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        let rest = "";
        for (;;) {
          const { done, value } = await reader.read();
          if (done || mine !== state.stream) break;
          clearTimeout(timer);
          timer = setTimeout(() => abort.abort(), SILENT);
          const messages = (rest + value).split("\n\n");
          rest = messages.pop();
          take(messages);
        }
      }
    } catch { /* interrupted: below it begins again where it ended */ }
    clearTimeout(timer);
    abort.abort();
    if (mine !== state.stream) return;
    state.isStreaming = false;
    await new Promise((resume) => setTimeout(resume, wait * (0.75 + Math.random() / 2)));
    wait = Math.min(wait * 2, 10000);
  }
}

function take(messages) {
  let hasNew = false;
  for (const message of messages) {
    let type = "", data = "", id = "";
    for (const line of message.split("\n")) {
      if (line.startsWith("event: ")) type = line.slice(7);
      else if (line.startsWith("data: ")) data += line.slice(6);
      else if (line.startsWith("id: ")) id = line.slice(4);
    }
    if (id) state.lastEventId = id;
    if (!data) continue;
    try {
      state.events.unshift({ type, ...JSON.parse(data) });
      hasNew = true;
    } catch { /* half a line */ }
  }
  if (!hasNew) return;
  if (state.events.length > MOST_EVENTS) state.events.length = MOST_EVENTS;
  stir();
  renderEventsSoon();
}

let eventsAreDue = false;
function renderEventsSoon() {
  if (eventsAreDue || state.isPaused) return;
  eventsAreDue = true;
  setTimeout(() => requestAnimationFrame(() => {
    eventsAreDue = false;
    renderEvents();
  }), SOON);
}

const eventRows = new Map();

function renderEvents() {
  const kind = $("events-kind").value;
  const wanted = [];
  for (const event of state.events) {
    if (kind === "all" || IMPORTANT.has(event.type)) wanted.push(event);
    if (wanted.length === MOST_SHOWN) break;
  }
  const list = $("events-list");
  const keep = new Set(wanted);
  for (const [event, row] of eventRows) {
    if (!keep.has(event)) { row.remove(); eventRows.delete(event); }
  }
  const first = list.firstChild, fresh = document.createDocumentFragment();
  for (const event of wanted) {
    if (eventRows.has(event)) continue;
    const row = eventRow(event);
    eventRows.set(event, row);
    if (isNewer(event, first)) fresh.append(row); else list.append(row);
  }
  list.insertBefore(fresh, first);
  list.hidden = !wanted.length;
  $("events-none").hidden = wanted.length > 0;
  put($("events-count"), wanted.length ? String(wanted.length) : "");
}

function isNewer(event, first) {
  return first !== null && state.events.indexOf(event) < state.events.indexOf(first.event);
}

function eventRow(event) {
  const row = make("li", "event");
  row.event = event;
  if (["TargetBenched", "CallFailed", "BudgetExceeded", "StoreUnavailable", "StoreLost", "ConfigReloadFailed", "dropped"].includes(event.type)) row.classList.add("bad");
  if (["TargetUnbenched", "StoreAvailable", "ConfigReloaded"].includes(event.type)) row.classList.add("good");
  const time = make("time", "time", event.at ? clock(event.at) : "");
  if (event.at) { time.dateTime = event.at; time.title = event.at; }
  row.append(time, make("span", "type", event.type), make("span", "key", shown(event.target || "")),
    make("span", "what", told(event)));
  return row;
}

function told(event) {
  if (event.type === "dropped") return `${plural(event.dropped, "event")} came too fast for this page`;
  if (event.type === "TargetBenched") {
    const by = event.kind ? event.kind : event.by ? `by ${shown(event.by)}` : "by hand";
    const what = event.enforced === false ? "would be benched: " : "";
    return `${what}${shown(event.reason) || "no reason given"}, ${by}${from(event)}, ${until(event)}`;
  }
  if (event.type === "StoreUnavailable") return `${shown(event.url)}: ${STORE_FAULTS[event.reason] || shown(event.reason)}`;
  if (event.type === "StoreAvailable") return `${shown(event.url)}, after ${span(event.seconds)}`;
  if (event.type === "StoreLost") return `${shown(event.url)} has lost data; each process writes back what it knows`;
  if (event.type === "ConfigReloaded" && Array.isArray(event.changed)) return `${shown(event.source)}: ${event.changed.map(shown).join(", ")}`;
  if (event.type === "ConfigReloadFailed" && Array.isArray(event.problems)) return event.problems.map(shown).join("; ");
  if (event.type === "HedgeStarted") return `after ${Number(event.delay).toFixed(3)} s, beside ${shown(event.beside)}`;
  if (event.type === "ToolLoopDetected") return `${event.repeats} equal calls of ${shown(event.tool)} in a row, ${event.action === "raise" ? "so the call was refused" : "and the call went on"}`;
  if (event.type === "OrderChanged" && Array.isArray(event.order)) return `the order is now ${event.order.map(shown).join(", ")}`;
  if (event.type === "BudgetWarning" || event.type === "BudgetExceeded") {
    const whose = event.key === null ? "" : ` for ${shown(event.key)}`;
    return `${shown(event.budget)}${whose}: ${amount(event.spent)} of ${amount(event.cap)}, resets ${clock(event.resets_at)}`;
  }
  const parts = [];
  for (const [name, value] of Object.entries(event)) {
    if (["type", "at", "pid", "target", "call_id"].includes(name) || value === null || value === "") continue;
    if (name === "source" && value === "local") continue;
    const text = typeof value === "number" && !Number.isInteger(value) ? value.toFixed(3) : shown(value);
    parts.push(`${name} ${text}`);
  }
  return parts.join(", ");
}

$("events-kind").addEventListener("change", renderEvents);
$("events-pause").addEventListener("click", () => {
  state.isPaused = !state.isPaused;
  $("events-pause").setAttribute("aria-pressed", String(state.isPaused));
  put($("events-pause"), state.isPaused ? "Go on" : "Pause");
  if (!state.isPaused) renderEvents();
});

// ---- rendering

function render() {
  renderStore();
  renderSummary();
  renderBenched();
  renderConfig();
  renderChains();
  renderSpend();
  renderTargets();
}

// What processes share, and what is this process's alone.

const showsStore = () => state.store.scope === "store";

function renderStore() {
  const store = state.store, element = $("store");
  element.hidden = !store.url;
  for (const id of ["chains", "targets"]) $(id).hidden = showsStore();
  for (const each of document.querySelectorAll("[data-own]")) each.hidden = !store.url || showsStore();
  put($("spend-scope"), store.url ? "of all processes that share the store." : "in memory, of this process only.");
  if (!store.url) return;
  const isBad = store.unavailable !== null || !store.connected;
  flag(element, "data-state", isBad ? "bad" : "good");
  put(element, [isBad ? faultOf(store) : `Shared through ${shown(store.url)} by ${plural(store.peers, "process", "processes")}.`,
    store.pending ? `${plural(store.pending, "change")} of this process ${store.pending === 1 ? "waits" : "wait"} to be sent.` : "",
    store.dropped ? `${plural(store.dropped, "change")} of this process ${store.dropped === 1 ? "was" : "were"} given up, since too many waited.` : "",
    store.rejected ? `${plural(store.rejected, "record")} in it ${store.rejected === 1 ? "was" : "were"} not understood or not allowed.` : "",
  ].filter(Boolean).join(" "));
}

function faultOf(store) {
  const fault = store.unavailable;
  const since = fault ? ` since ${clock(fault.since)}` : "";
  const why = fault ? STORE_FAULTS[fault.reason] || shown(fault.reason) : shown(store.last_error || "it has not answered");
  const stillRead = fault && store.connected && ["read_only", "full"].includes(fault.reason);
  const effect = stillRead ? "Benches of other processes are seen, and none of this one is sent."
    : store.last_sync_at ? `Benches of other processes are as of ${clock(store.last_sync_at)}.`
    : "No bench of another process has been read.";
  return `The store ${shown(store.url)} cannot be used${since}: ${why}. ${effect}`;
}

const isOwnBench = (target) => target.benched !== null && target.benched.model === target.key;

function renderSummary() {
  const benched = state.targets.filter(isOwnBench).length;
  const stuck = state.chains.filter((chain) => !chain.targets.some((each) => each.live));
  const degraded = state.targets.filter((each) => each.status === "degraded").length;
  const down = state.targets.filter((each) => each.status === "down" && each.benched === null).length;
  const healthy = state.targets.filter((each) => each.status === "healthy").length;
  const parts = [];
  if (stuck.length) parts.push(`${plural(stuck.length, "chain")} without a live target`);
  if (benched) parts.push(`${benched} benched`);
  if (down) parts.push(`${down} down`);
  if (degraded) parts.push(`${degraded} degraded`);
  if (!showsStore() && (healthy || !parts.length)) parts.push(`${healthy} healthy`);
  const status = benched || down || stuck.length ? "down" : degraded ? "degraded" : "healthy";
  const nothing = showsStore() ? "Nothing is benched" : "No target has been used yet";
  put($("summary"), state.targets.length && parts.join(" · ") || nothing);
  flag($("summary"), "data-status", state.targets.length ? status : "");
  const title = benched ? `(${benched}) benched – LLM targets` : "LLM targets";
  if (document.title !== title) document.title = title;
  const color = { down: "%23c9362c", degraded: "%23d08a1d", healthy: "%232f9e5f" }[status];
  flag($("icon"), "href", "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>"
    + `<circle cx='8' cy='8' r='7' fill='${color}'/></svg>`);
}

// Benches: a card each, kept while the bench lasts so that focus stays where it is.

const cards = new Map();

// Seconds below one of a moment. A Date keeps milliseconds only, and two benches may share one.
function secondsFraction(moment) {
  return Number(`0.${/\.(\d+)/.exec(moment)?.[1] ?? 0}`);
}

function renderBenched() {
  const benched = state.targets.filter(isOwnBench);
  benched.sort((one, other) => Date.parse(other.benched.since) - Date.parse(one.benched.since)
    || secondsFraction(other.benched.since) - secondsFraction(one.benched.since)
    || (one.key < other.key ? -1 : 1));
  put($("benched-count"), benched.length ? String(benched.length) : "");
  $("benched-none").hidden = benched.length > 0;
  const present = new Set(benched.map((each) => each.key));
  let hadFocus = false;
  for (const [key, card] of cards) {
    if (present.has(key)) continue;
    hadFocus = hadFocus || card.root.contains(document.activeElement);
    card.root.remove();
    cards.delete(key);
  }
  if (hadFocus) $("benched").focus();
  inOrder($("benched-list"), benched.map((target) => {
    let card = cards.get(target.key);
    if (!card) cards.set(target.key, card = newCard(target.key));
    updateCard(card, target);
    return card.root;
  }));
}

function newCard(key) {
  const root = make("li", "card");
  const head = make("div"), title = make("span", "key", shown(key));
  const what = make("div", "why"), reason = make("strong"), by = make("span");
  what.append(reason, ", ", by);
  const actions = make("div", "actions");
  const change = make("button", "", "Change"), end = make("button", "", "Unbench");
  change.type = end.type = "button";
  flag(change, "aria-label", `Change the bench of ${shown(key)}`);
  flag(end, "aria-label", `Unbench ${shown(key)}`);
  change.addEventListener("click", () => openBench(key));
  end.addEventListener("click", () => openUnbench(key));
  actions.append(change, end);
  const times = make("div", "times"), since = make("span"), ends = make("span");
  const sinceTime = make("b"), endTime = make("b"), sinceSpan = make("span"), endSpan = make("span");
  since.append("since ", sinceTime, sinceSpan);
  ends.append("until ", endTime, endSpan);
  times.append(since, ends);
  const reach = make("div", "reach");
  head.append(title);
  root.append(head, what, actions, times, reach);
  return { root, reason, by, sinceTime, sinceSpan, endTime, endSpan, reach, actions, since, ends };
}

function updateCard(card, target) {
  const bench = target.benched;
  card.root.classList.toggle("by-hand", bench.manual);
  put(card.reason, why(bench));
  const failures = bench.consecutive_failures;
  const more = bench.manual || failures < 2 ? "" : ` after ${plural(failures, "failure")} in a row`;
  put(card.by, who(bench) + more);
  put(card.sinceTime, clock(bench.since));
  card.since.title = bench.since;
  put(card.endTime, bench.until === null ? "unbenched" : clock(bench.until));
  card.ends.title = bench.until || "";
  card.actions.hidden = !state.canWrite || bench.reason === "forced_open" && !bench.manual;
  card.bench = bench;
  const blocked = state.targets.filter((each) => each.key !== target.key && providerOf(each.key) === target.key);
  const parts = [];
  if (MEANING[bench.kind]) parts.push(MEANING[bench.kind]);
  if (!target.key.includes("/") && blocked.length) parts.push(`Keeps ${plural(blocked.length, "target")} from being called.`);
  put(card.reach, parts.join(" "));
  tick(card);
}

function tick(card) {
  const bench = card.bench;
  put(card.sinceSpan, `, ${span((now() - Date.parse(bench.since)) / 1000)} ago`);
  const left = bench.until === null ? 0 : (Date.parse(bench.until) - now()) / 1000;
  put(card.endSpan, bench.until === null ? "" : left > 0 ? `, in ${span(left)}` : ", ending");
}

setInterval(() => {
  if (document.hidden) return;
  for (const card of cards.values()) tick(card);
}, 1000);

// Puts children in this order, moving only what stands elsewhere.
function inOrder(parent, wanted) {
  let place = parent.firstChild;
  for (const element of wanted) {
    if (element === place) place = place.nextSibling;
    else parent.insertBefore(element, place);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

// Chains.

let chainsShown = "";

function renderChains() {
  const seen = JSON.stringify(state.chains, (name, value) => name === "remaining" ? undefined : value);
  if (seen === chainsShown) return;
  chainsShown = seen;
  $("chains-none").hidden = state.chains.length > 0;
  put($("chains-count"), state.chains.length ? String(state.chains.length) : "");
  const stuckFirst = [...state.chains].sort((one, other) =>
    one.targets.some((each) => each.live) - other.targets.some((each) => each.live));
  inOrder($("chains-list"), stuckFirst.map(chainItem));
}

function renderConfig() {
  const { source, loaded_at, shadowed, profile, problems } = state.config, said = [];
  if (source !== null) said.push(`Configured by ${shown(source)}${loaded_at ? `, loaded ${clock(loaded_at)}` : ""}`);
  if (profile !== null) said.push(`profile ${shown(profile)}`);
  if (shadowed.length) said.push(`code hides ${shadowed.map(shown).join(", ")}`);
  $("config").hidden = !said.length;
  put($("config"), said.join("; "));
  $("config-failed").hidden = !problems.length;
  put($("config-failed"), problems.length
    ? `The last reload failed, and what was loaded before holds: ${problems.map(shown).join("; ")}` : "");
}

function chainItem(chain) {
  const item = make("li", "chain"), names = make("div", "names");
  names.textContent = chain.functions.length ? chain.functions.map(shown).join(", ") : "(loop)";
  const steps = make("ol");
  const first = chain.targets.findIndex((each) => each.live);
  chain.targets.forEach((target, at) => {
    const step = make("li", "step");
    step.append(make("span", "key", shown(target.key)));
    if (at === first) {
      step.classList.add("first");
      step.append(make("small", "", "called first"));
    } else if (!target.live) {
      step.classList.add("blocked");
      const bench = target.benched;
      const what = bench ? `benched ${until(bench)}` : target.state === "half_open" ? "being probed" : target.state;
      step.append(make("small", "", what));
    }
    if (target.penalty) step.append(make("small", "", "moved back"));
    steps.append(step);
  });
  item.append(names);
  if (chain.written.some((each) => each.startsWith("@") || each === "a route")) {
    item.append(make("div", "written", `written as ${chain.written.map(shown).join(", ")}`));
  }
  item.append(steps);
  if (first < 0) {
    item.classList.add("none-live");
    item.append(make("p", "alarm", "No target of this chain may be called."));
  }
  return item;
}

// Targets.

const rows = new Map();
const RANK = { down: 0, half_open: 1, degraded: 2, healthy: 3 };

function rankOf(target) {
  return target.status === "healthy" && target.state === "half_open" ? 1 : RANK[target.status];
}

function renderTargets() {
  const filter = $("filter").value.trim().toLowerCase();
  const wanted = state.targets.filter((each) => each.key.toLowerCase().includes(filter));
  wanted.sort((one, other) => rankOf(one) - rankOf(other) || (one.key < other.key ? -1 : 1));
  const all = state.targets.length;
  wanted.length = Math.min(wanted.length, MOST_ROWS);  // the worst; the filter finds the others
  put($("targets-count"), wanted.length === all ? (all ? String(all) : "") : `${wanted.length} of ${all}`);
  $("targets-none").hidden = all > 0;
  $("targets-table").hidden = all === 0;
  const present = new Set(state.targets.map((each) => each.key));
  for (const key of rows.keys()) if (!present.has(key)) rows.delete(key);
  inOrder($("targets-list"), wanted.map((target) => {
    let row = rows.get(target.key);
    if (!row) rows.set(target.key, row = newRow(target.key));
    updateRow(row, target);
    return row.root;
  }));
}

function cell(className, name) {
  const made = make("td", className);
  if (name) made.dataset.name = name;
  return made;
}

function newRow(key) {
  const root = make("tr", key.includes("/") ? "" : "provider");
  const name = cell("key"), where = cell("state"), pill = make("span", "pill"), note = make("span", "soft");
  name.textContent = shown(key);
  where.append(pill, " ", note);
  const errors = cell("number", "errors"), share = make("span");
  const latency = cell("number", "latency"), calls = cell("number", "calls");
  errors.append(share);
  const figures = cell("figures"), action = cell("action"), button = make("button");
  button.type = "button";
  action.append(button);
  const row = { root, key, pill, note, share, latency, calls, button, drawn: "", ...newSpark() };
  figures.append(row.spark);
  button.addEventListener("click", () => row.isBenched ? openUnbench(key) : openBench(key));
  root.append(name, where, errors, latency, calls, figures, action);
  return row;
}

function newSpark() {
  const drawing = (tag, name) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    if (name) element.setAttribute("class", name);
    return element;
  };
  const spark = drawing("svg", "spark"), ground = drawing("rect", "ground");
  spark.setAttribute("viewBox", "0 0 180 24");
  spark.setAttribute("preserveAspectRatio", "none");
  spark.setAttribute("role", "img");
  ground.setAttribute("width", "180");
  ground.setAttribute("height", "24");
  const benchedPath = drawing("path", "benched"), callsPath = drawing("path", "calls"), errorsPath = drawing("path", "errors");
  spark.append(ground, benchedPath, callsPath, errorsPath);
  return { spark, benchedPath, callsPath, errorsPath };
}

function updateRow(row, target) {
  const bench = target.benched;
  const kind = bench ? "down" : target.state === "half_open" ? "half_open" : target.status;
  const name = bench ? "benched" : kind === "half_open" ? "half-open" : kind;
  if (row.pill.className !== `pill ${kind}`) row.pill.className = `pill ${kind}`;
  put(row.pill, name);
  put(row.note, noteOf(target));
  put(row.share, target.total ? `${percent(target.error_rate)} (${target.errors})` : "–");
  const level = target.error_rate >= 0.5 ? "bad" : target.error_rate >= 0.1 ? "warn" : "";
  if (row.share.className !== level) row.share.className = level;
  put(row.latency, seconds(target.latency));
  put(row.calls, target.total.toLocaleString("en"));
  row.isBenched = isOwnBench(target);
  row.button.hidden = !state.canWrite || row.isBenched && !bench.manual && bench.reason === "forced_open";
  put(row.button, row.isBenched ? "Unbench" : "Bench");
  flag(row.button, "aria-label", `${row.isBenched ? "Unbench" : "Bench"} ${shown(target.key)}`);
  drawSpark(row, target.samples);
}

// Budgets.

const spendRows = new Map();

function amount(value, unit) {
  const text = value.toLocaleString("en", { maximumFractionDigits: value < 1 ? 6 : 2 });
  return unit === "usd" ? `$${text}` : text;
}

// Of a store alone nobody knows the caps.
const shareOf = (row) => row.cap === null ? 0 : row.cap ? row.spent / row.cap : 1;

function renderSpend() {
  $("spend").hidden = !state.spend.length;
  const wanted = [...state.spend].sort((one, other) => shareOf(other) - shareOf(one));
  wanted.length = Math.min(wanted.length, MOST_ROWS);
  put($("spend-count"), wanted.length ? String(wanted.length) : "");
  const listed = new Map();
  for (const each of wanted) listed.set(each.budget, (listed.get(each.budget) || 0) + 1);
  const cut = new Map(wanted.filter((each) => each.keys > listed.get(each.budget))
    .map((each) => [each.budget, each.keys]));
  put($("spend-more"), [...cut].map(([budget, keys]) =>
    `Of ${plural(keys, "key")} of ${shown(budget)} the ${listed.get(budget)} that used most are shown.`).join(" "));
  const present = new Set(wanted.map(spendId));
  for (const id of spendRows.keys()) if (!present.has(id)) spendRows.delete(id);
  inOrder($("spend-list"), wanted.map((each) => {
    let row = spendRows.get(spendId(each));
    if (!row) spendRows.set(spendId(each), row = newSpendRow(each));
    updateSpendRow(row, each);
    return row.root;
  }));
}

const spendId = (each) => JSON.stringify([each.budget, each.key]);

function newSpendRow(each) {
  const root = make("tr"), name = cell("key"), where = make("span", "soft");
  const whose = each.key === null ? shown(each.budget) : `${shown(each.key)} `;
  name.append(whose, where);
  if (each.key !== null) put(where, `in ${shown(each.budget)}`);
  const spent = cell("number", "spent"), reserved = cell("number", "reserved"), cap = cell("number", "cap");
  const share = cell("figures"), meter = make("meter"), percents = make("span");
  meter.max = 1;
  meter.low = 0.8;
  meter.high = 0.999;
  meter.optimum = 0;
  flag(meter, "aria-label", `Share of ${whose} that is spent`);
  share.append(meter, " ", percents);
  const resets = cell("resets");
  root.append(name, spent, reserved, cap, share, resets);
  return { root, spent, reserved, cap, meter, percents, resets };
}

function updateSpendRow(row, each) {
  const share = shareOf(each);
  const unit = each.cap === null && each.unit !== "usd" ? ` ${each.unit}` : "";
  put(row.spent, amount(each.spent, each.unit) + unit);
  put(row.reserved, amount(each.reserved, each.unit));
  const isCapped = each.cap !== null;
  put(row.cap, !isCapped ? "–" : each.unit === "usd" ? amount(each.cap, "usd") : `${amount(each.cap)} ${each.unit}`);
  row.meter.hidden = !isCapped;
  row.meter.value = Math.min(share, 1);
  put(row.percents, isCapped ? percent(share) : "");
  const level = share >= 1 ? "bad" : share >= 0.8 ? "warn" : "";
  if (row.percents.className !== level) row.percents.className = level;
  put(row.resets, each.resets_at ? clock(each.resets_at) : "–");
  row.resets.title = each.resets_at || "";
}

function percent(share) {
  const value = share * 100;
  return value > 0 && value < 1 ? "<1 %" : `${Math.round(value)} %`;
}

function noteOf(target) {
  return [healthNoteOf(target), probeNoteOf(target.probe)].filter(Boolean).join(" · ");
}

function probeNoteOf(probe) {
  if (!probe) return "";
  return probe.ok ? `health probe well, ${seconds(probe.seconds)}` : `health probe: ${shown(probe.reason)}`;
}

function healthNoteOf(target) {
  const bench = target.benched;
  if (bench) {
    const through = bench.model === target.key ? "" : `with ${shown(bench.model)}: `;
    return `${through}${why(bench)}, ${who(bench)}, ${until(bench)}`;
  }
  if (target.status === "healthy" && target.state === "closed") return "";
  const last = target.last_error;
  const failures = target.consecutive_failures;
  const row = failures > 1 ? `, ${failures} in a row` : "";
  return last ? `last error ${shown(last.reason || last.kind)}${row}` : "";
}

function drawSpark(row, samples) {
  const drawn = `${samples.until} ${samples.calls.length}`;
  if (row.drawn === drawn) return;
  row.drawn = drawn;
  const width = 180 / POINTS, from = POINTS - samples.calls.length;
  const most = Math.max(1, ...samples.calls);
  let calls = "", errors = "", benched = "", failed = 0, all = 0;
  samples.calls.forEach((count, at) => {
    const x = (from + at) * width, wrong = samples.errors[at];
    all += count;
    failed += wrong;
    // Something that happened is seen, however small beside the rest.
    const high = (value) => value ? Math.max(2, 22 * value / most) : 0;
    const bar = (height) => `M${x} 24v-${height.toFixed(1)}h${width - 0.5}v${height.toFixed(1)}z`;
    if (count) calls += bar(high(count));
    if (wrong) errors += bar(high(wrong));
    if (samples.benched[at]) benched += `M${x} 0h${width}v24h-${width}z`;
  });
  flag(row.callsPath, "d", calls);
  flag(row.errorsPath, "d", errors);
  flag(row.benchedPath, "d", benched);
  flag(row.spark, "aria-label", `${plural(failed, "error")} in ${plural(all, "call")}`);
}

$("filter").addEventListener("input", renderTargets);

// ---- benching and unbenching

let benchKey = null, unbenchKey = "";

function openBench(key) {
  benchKey = key;
  $("bench-key-field").hidden = key !== null;
  $("bench-key-input").required = key === null;
  put($("bench-key"), key === null ? "a key" : shown(key));
  $("bench-form").reset();
  const known = $("keys");
  known.replaceChildren(...state.targets.map((each) => Object.assign(make("option"), { value: each.key })));
  $("bench-wrong").hidden = true;
  describeBench();
  $("bench-dialog").showModal();
  (key === null ? $("bench-key-input") : $("bench-reason")).focus();
}

function describeBench() {
  const key = benchKey === null ? $("bench-key-input").value.trim() : benchKey;
  const isProvider = key !== "" && !key.includes("/");
  const reached = state.targets.filter((each) => each.key === key || isProvider && providerOf(each.key) === key);
  const models = reached.filter((each) => each.key.includes("/")).length;
  put($("bench-effect"), isProvider
    ? `Calls pass over every target of this provider${models ? `, ${models} now` : ""}. Attempts that run are not stopped.`
    : "Calls pass over this target and go to the next one. Attempts that run are not stopped.");
  const blocked = (each) => each.key === key || isProvider && providerOf(each.key) === key;
  const left = state.chains.filter((chain) => chain.targets.some(blocked)
    && chain.targets.some((each) => each.live) && chain.targets.every((each) => !each.live || blocked(each)));
  $("bench-last").hidden = !left.length;
  put($("bench-last"), left.length
    ? `After this, no target may be called in ${left.map((each) => each.functions.map(shown).join(", ") || "a loop").join("; ")}.` : "");
  const length = $("bench-form").elements.namedItem("length").value;
  put($("bench-confirm"), { 900: "Bench for 15 minutes", 3600: "Bench for 1 hour" }[length] || "Bench until unbenched");
}

$("bench-other").addEventListener("click", () => openBench(null));
$("bench-form").addEventListener("input", describeBench);
$("bench-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = benchKey === null ? $("bench-key-input").value.trim() : benchKey;
  const length = $("bench-form").elements.namedItem("length").value;
  const body = { model: key, reason: $("bench-reason").value.trim() };
  if (length) body.seconds = Number(length);
  await write("bench", `${shown(key)} is benched`, "api/benches", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  });
});

function openUnbench(key) {
  unbenchKey = key;
  put($("unbench-key"), shown(key));
  const target = state.targets.find((each) => each.key === key);
  const bench = target && target.benched;
  put($("unbench-effect"), !bench ? "" : `It is benched since ${clock(bench.since)}: ${why(bench)}, ${who(bench)}. `
    + (bench.kind === "auth_dead" ? "If the credentials are still wrong, the next call benches it again." : "Calls use it again at once."));
  $("unbench-wrong").hidden = true;
  $("unbench-dialog").showModal();
  $("unbench-confirm").focus();
}

$("unbench-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  await write("unbench", `${shown(unbenchKey)} is benched no more`,
    `api/benches?model=${encodeURIComponent(unbenchKey)}`, { method: "DELETE" });
});

async function write(name, done, path, options) {
  const confirm = $(`${name}-confirm`), wrong = $(`${name}-wrong`);
  if (confirm.disabled) return;
  confirm.disabled = true;
  try {
    await call(path, options);
    $(`${name}-dialog`).close();
    put($("said"), done);
    await refresh();
  } catch (error) {
    if (error.status === 401) $(`${name}-dialog`).close();
    if (!refused(error)) {
      const text = error instanceof Refused ? error.message : "the server does not answer";
      wrong.hidden = false;
      put(wrong, `It was not done: ${text}.`);
    }
  } finally {
    confirm.disabled = false;
  }
}

for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}

// ---- begin

window.addEventListener("hashchange", () => {
  if (takeFromAddress()) { $("token-dialog").close(); begin(); }
});
if (!takeFromAddress()) keep(stored());
begin();
