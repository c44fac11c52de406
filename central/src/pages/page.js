"use strict";
// Central's dashboard: what is wrong comes first. It polls, changes only the nodes that differ, and keeps the last
// figures, greyed and with their age, when central does not answer.

const POLL_MS = 2000;
const ANSWER_MS = 10_000;
const SELDOM = 5;
const LAG_MS = 5_000;
const UNSENT_MS = 60_000;

const $ = (id) => document.getElementById(id);

// Words and nodes. Data only ever becomes text: a name may contain "<".

const number = (value) => value.toLocaleString("en");
const PLURALS = { item: "items", entry: "entries" };
const count = (value, word) => `${number(value ?? 0)} ${value === 1 ? word : PLURALS[word]}`;

/** The time of day, and of any other day than today its date too. */
function clock(time) {
  const at = new Date(time);
  if (at.toDateString() === new Date().toDateString()) return at.toLocaleTimeString("en-GB");
  return at.toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}

function age(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${ms} ms`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

function text(node, value) {
  if (node.textContent !== String(value)) node.textContent = value;
}

/** Shows words, or hides the node when there are none. */
function show(node, words) {
  text(node, words);
  node.hidden = !words;
}

function look(node, className) {
  if (node.className !== className) node.className = className;
}

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

/** Makes a list show these records, keeping the node of each one that stays. */
function fill(list, records, id, create, update) {
  const old = new Map([...list.children].map((node) => [node.dataset.id, node]));
  const nodes = records.map((record) => {
    const node = old.get(id(record)) || create(record);
    old.delete(id(record));
    node.dataset.id = id(record);
    update(node, record);
    return node;
  });
  old.forEach((node) => node.remove());
  // What stands right is left alone: moving a node takes the focus from it.
  nodes.forEach((node, at) => {
    if (list.children[at] !== node) list.insertBefore(node, list.children[at] || null);
  });
}

/** Pairs of a name and a value in a `dl`. */
function facts(list, pairs) {
  const create = () => make("div", "", make("dt"), make("dd"));
  fill(list, pairs, ([name]) => name, create, (node, [name, value, isBad]) => {
    text(node.firstChild, name);
    text(node.lastChild, value);
    look(node, isBad ? "bad" : "");
  });
}

// Asking central.

/** A server with tokens wants one; this browser keeps the one that it was given. */
const TOKEN = "shelfstream-token";

/** Whether it is a token that is missing; then one is asked for. */
function wantsToken({ problem }) {
  if (problem?.code !== "unauthorized" && problem?.code !== "forbidden") return false;
  const isGiven = localStorage.getItem(TOKEN) !== null;
  text($("who-problem"), isGiven ? `The token that this browser has will not do: ${problem.detail}.` : "");
  $("who-problem").hidden = !isGiven;
  if (!$("who").open) $("who").showModal();
  return true;
}

/** What only operators may see is not shown to others. */
function unlessOperator(error) {
  if (error.problem?.code !== "forbidden") throw error;
  return { items: [] };
}

$("who-form").addEventListener("submit", (event) => {
  event.preventDefault();
  localStorage.setItem(TOKEN, $("token").value.trim());
  location.reload();
});

/** Throws the problem, or any other error when there was no answer that can be read. */
async function ask(path, { method = "GET", key, body } = {}) {
  const headers = { Accept: "application/json" };
  if (body) headers["Content-Type"] = "application/json";
  if (key) Object.assign(headers, { "Idempotency-Key": key, "Shelf-Actor": "dashboard" });
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), ANSWER_MS);
  const token = localStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  try {
    // Not stored: this page and central's state have the same address.
    const options = { method, headers, body: body && JSON.stringify(body), signal: abort.signal, cache: "no-store" };
    const answer = await fetch(path, options);
    const json = await answer.json();
    if (!answer.ok) throw Object.assign(new Error(json.code), { problem: json });
    return json;
  } finally {
    clearTimeout(timer);
  }
}

/** A name for one submission. Plain http has no randomUUID. */
function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// What is wrong with a store, and how bad that is.

const STATUS = {
  quarantined: ["!", 90, "Its link is broken: what it sends cannot be followed."],
  fenced: ["!", 80, "Its agent is refused: a copy, a clone, or one that was replaced."],
  offline: ["✕", 70, "No heartbeat. Its tills may go on selling; online sale is refused."],
  suspect: ["?", 60, "Its stock differs from central’s copy. It still sells."],
  catching_up: ["↻", 40, "Central is not up to date with it yet; online sale waits."],
  paused: ["‖", 30, "Online sale is paused by an operator."],
  new: ["○", 20, "No heartbeat was ever seen."],
  online: ["✓", 0, ""],
  retired: ["–", -1, "Taken out of the chain by an operator; it counts in no total."],
};
const WRONG = 40;

/** A retired store may be taken back under its own epoch, 0 if it had none; any other one is some agent's claim. */
const foreign = (store) => store.claims.filter(({ epoch }) => epoch !== store.epoch);

/** What a claimant would bring, as far as it is known: a claim whose agent does not run says its epoch alone. */
function claimOf({ epoch, items, backlog, forMs }) {
  const parts = [items !== undefined && count(items, "item"), backlog && `${count(backlog, "entry")} not sent`,
    forMs !== undefined && `for ${age(forMs)}`].filter(Boolean);
  return `An agent claims epoch ${epoch}${parts.length ? ` (${parts.join(", ")})` : ""}.`;
}

/** What an agent is that has stopped itself, and goes on selling: nothing of it reaches central. */
function stoppedOf({ why, epoch, items, backlog, forMs }) {
  return `An agent with epoch ${epoch} has stopped itself (${why}) and sells on, for ${age(forMs)}: `
    + `${count(items, "item")}, ${count(backlog, "entry")} not sent. See which one is right, and restore or stop the other.`;
}

/** Of a fenced store the agent that is heard is not the one that the view is of: its figures say nothing about it. */
function withoutForeign(store) {
  if (store.status !== "fenced") return store;
  return { ...store, lagMs: null, head: null, backlog: null, oldestUnsentMs: null, digest: "unknown" };
}

function judge(told, redis) {
  const store = withoutForeign(told);
  // A beat's figures grow old until the next one: what it announced and central has applied by now is no backlog, and
  // of a store that is not heard nobody knows.
  const isSettled = store.head !== null && store.applied >= store.head;
  const isUnheard = ["offline", "new", "fenced"].includes(store.status);
  const backlog = isUnheard ? null : isSettled ? 0 : store.backlog;
  const oldestUnsentMs = backlog ? store.oldestUnsentMs : 0;
  const [mark, rank, meaning] = STATUS[store.status] || ["?", 50, ""];
  const isDeaf = redis === "down" && store.status === "offline";
  const found = [[rank, isDeaf ? "Central cannot hear it without Redis." : meaning]];
  if (store.status === "retired") {
    for (const claim of foreign(store)) found.push([30, claimOf(claim)]);
  } else {
    const stopped = store.stoppedAgent;
    if (stopped) found.push([85, stoppedOf(stopped)]);
    const rest = store.warnings.filter((warning) => !stopped || !warning.startsWith("an agent has stopped itself"));
    for (const warning of rest) found.push([85, sentence(warning)]);
    for (const claim of store.claims.filter(({ epoch }) => epoch !== stopped?.epoch)) found.push([75, claimOf(claim)]);
    if (store.digest === "different") found.push([65, "Digest differs from the store’s."]);
    if (store.lagMs > LAG_MS) found.push([50, `Central is ${age(store.lagMs)} behind.`]);
    const overdue = store.overduePurchases;
    if (overdue) found.push([62, `${overdue === 1 ? "1 purchase is" : `${number(overdue)} purchases are`} overdue.`]);
    if (oldestUnsentMs > UNSENT_MS) found.push([45, `The oldest unsent entry is ${age(oldestUnsentMs)} old.`]);
  }
  const worst = Math.max(...found.map(([how]) => how));
  const tone = worst >= 60 ? "bad" : worst > 0 ? "warn" : worst < 0 ? "" : "good";
  const words = found.map(([, what]) => what).filter(Boolean);
  return { ...store, backlog, oldestUnsentMs, mark, worst, tone, words };
}

const sentence = (words) => `${words[0].toUpperCase()}${words.slice(1)}${words.endsWith(".") ? "" : "."}`;
const name = (status) => status.replaceAll("_", " ");

// The table of stores.

const COLUMNS = [
  ["Store", null],
  ["Status", null],
  // Central does not remember beats of before its start.
  ["Last beat", (s) => (s.lastBeatAgeMs !== null ? `${age(s.lastBeatAgeMs)} ago` : s.epoch ? "not heard" : "never")],
  ["Lag", (s) => age(s.lagMs), (s) => s.lagMs > LAG_MS],
  ["Backlog", (s) => (s.backlog === null ? "unknown" : number(s.backlog))],
  ["Oldest unsent", (s) => (s.backlog ? age(s.oldestUnsentMs) : "–"), (s) => s.oldestUnsentMs > UNSENT_MS],
  ["Digest", (s) => ({ equal: "= ", different: "≠ " }[s.digest] || "") + s.digest, (s) => s.digest === "different"],
  ["Epoch:head", (s) => `${s.epoch}:${s.head ?? "?"}`],
  ["Applied", (s) => `${s.applied}`],
  ["Open purchases", (s) => number(s.openPurchases), (s) => s.overduePurchases > 0],
];
for (const [title] of COLUMNS) {
  const head = make("th", "", title);
  head.scope = "col";
  head.setAttribute("role", "columnheader");
  $("columns").append(head);
}

function makeRow(store) {
  const row = make("tr");
  row.setAttribute("role", "row");
  for (const [title] of COLUMNS) {
    const cell = make("td");
    cell.setAttribute("role", "cell");
    cell.dataset.label = title;
    row.append(cell);
  }
  const link = make("a", "", store.storeId);
  link.href = `#${encodeURIComponent(store.storeId)}`;
  row.cells[0].append(link);
  row.cells[1].append(make("span"), make("span", "why"));
  row.addEventListener("click", () => link.click());
  link.addEventListener("click", (event) => event.stopPropagation());
  return row;
}

function updateRow(row, store) {
  look(row, store.tone);
  const [status, why] = row.cells[1].children;
  text(status, `${store.mark} ${name(store.status)}`);
  look(status, `status ${store.tone}`);
  text(why, store.words.join(" "));
  COLUMNS.forEach(([, value, isBad], at) => {
    if (!value) return;
    text(row.cells[at], value(store));
    look(row.cells[at], isBad && isBad(store) ? "bad" : "");
  });
}

let filter = "all";
let stores = [];

function showStores() {
  const alive = stores.filter((store) => store.status !== "retired");
  const wrong = alive.filter((store) => store.worst >= WRONG);
  const groups = [["all", alive], ["wrong", wrong]];
  for (const status of Object.keys(STATUS)) groups.push([status, stores.filter((store) => store.status === status)]);
  const shown = groups.filter(([id, list]) => list.length || id === filter || id === "all" || id === "wrong");
  fill($("filter"), shown, ([id]) => id, makeChip, (chip, [id, list]) => {
    text(chip, `${{ all: "All", wrong: "Something wrong" }[id] || name(id)} ${list.length}`);
    chip.setAttribute("aria-pressed", String(id === filter));
  });
  const list = groups.find(([id]) => id === filter)[1];
  const order = new Intl.Collator("en", { numeric: true }).compare;
  list.sort((a, b) => b.worst - a.worst || order(a.storeId, b.storeId));
  fill($("stores"), list, (store) => store.storeId, makeRow, updateRow);
  const none = stores.length ? "No store is in this state." : "No store has been heard of yet.";
  show($("stores-none"), list.length ? "" : none);
  const bad = wrong.map((store) => `${store.storeId} ${name(store.status)}`).join(", ");
  text($("stores-live"), bad ? `Something is wrong with: ${bad}` : "Nothing is wrong with any store");
  document.title = wrong.length ? `(${wrong.length}) Shelfstream central` : "Shelfstream central";

  const sum = (key) => alive.reduce((total, store) => total + (store[key] || 0), 0);
  const most = (key) => alive.reduce((worst, store) => Math.max(worst, store[key] || 0), 0);
  const backlog = sum("backlog");
  const isUnknown = alive.some((store) => store.backlog === null);
  const online = alive.filter((store) => ["online", "suspect", "paused"].includes(store.status)).length;
  facts($("totals"), [
    ["Stores online", `${number(online)} / ${number(alive.length)}`, online < alive.length],
    ["Worst lag", age(most("lagMs")), most("lagMs") > LAG_MS],
    ["Backlog", isUnknown && !backlog ? "unknown" : number(backlog) + (isUnknown ? " or more" : "")],
    ["Oldest unsent", backlog ? age(most("oldestUnsentMs")) : "–", most("oldestUnsentMs") > UNSENT_MS],
    ["Open purchases", number(sum("openPurchases"))],
    ["Overdue purchases", number(sum("overduePurchases")), sum("overduePurchases") > 0],
    ["Dead letters", letters === null ? "–" : letters >= 1000 ? "1,000 or more" : number(letters), letters > 0],
  ]);
}

function makeChip([id]) {
  const chip = make("button");
  chip.type = "button";
  chip.addEventListener("click", () => {
    filter = id;
    showStores();
  });
  return chip;
}

// One store: its figures and what an operator may do. The address names it, so it can be sent to someone else.

const keys = new Map();
let opened = null;

function openStore() {
  const id = decodeURIComponent(location.hash.slice(1));
  const store = stores.find((known) => known.storeId === id);
  if (!store) return $("store").open && $("store").close();
  if (opened !== id) {
    opened = id;
    text($("answer"), "");
    $("confirm").hidden = true;
  }
  showStore(store);
  if (!$("store").open) $("store").showModal();
}

function showStore(store) {
  text($("store-title"), `Store ${store.storeId}`);
  text($("store-status"), `${store.mark} ${name(store.status)}`);
  look($("store-status"), `status ${store.tone}`);
  fill($("store-words"), store.words, (words) => words, (words) => make("li", "", words), () => {});
  facts($("facts"), [
    ["Online sale", store.onlineSale ? "allowed" : "paused"],
    ...COLUMNS.filter(([, value]) => value).map(([title, value]) => [title, value(store)]),
    ["Digest of the view", store.digestValue],
    ["Complete as of", store.epoch ? new Date(store.asOf).toLocaleString("en-GB") : "never"],
    ["Agent", store.agentVersion || "not known"],
  ]);
  text($("sale"), store.onlineSale ? "Pause online sale" : "Resume online sale");
  // Central would refuse the one, and the other means nothing.
  const isRetired = store.status === "retired";
  $("sale").hidden = $("resync").hidden = isRetired;
  fill($("adopts"), store.claims, ({ epoch }) => String(epoch), makeAdopt, (button, { epoch, items }) => {
    const isOwn = epoch === store.epoch;
    const claimant = `epoch ${epoch}${items === undefined ? "" : ` (${count(items, "item")})`}`;
    text(button, isRetired && isOwn ? "Take back" : `${isRetired ? "Take back with" : "Adopt"} ${claimant}`);
  });
}

/** What the operator did, under one key until an answer came. A refusal may ask something: by its code. */
async function operate(done, method, path, body, asks = {}) {
  const name = `${opened} ${method} ${path} ${JSON.stringify(body)}`;
  if (!keys.has(name)) keys.set(name, newKey());
  const buttons = $("store").querySelectorAll("#buttons button, #yes");
  buttons.forEach((button) => (button.disabled = true));
  text($("answer"), "Asking central.");
  let question;
  try {
    await ask(`stores/${encodeURIComponent(opened)}${path}`, { method, body, key: keys.get(name) });
    keys.delete(name);
    text($("answer"), done);
  } catch ({ problem }) {
    const isOpen = !problem || problem.retryable || problem.status >= 500;
    if (!isOpen) keys.delete(name);
    const why = problem ? problem.detail || problem.title : "No answer came, so it is not known whether it was done.";
    text($("answer"), isOpen ? `${why} You may press again: it is done once at most.` : `Refused: ${why}`);
    question = asks[problem?.code]?.bind(null, problem);
  }
  buttons.forEach((button) => (button.disabled = false));
  if (question) question();
  wake();
}

const current = () => stores.find((store) => store.storeId === opened);

$("sale").addEventListener("click", () => {
  const onlineSale = !current().onlineSale;
  const done = onlineSale ? "Online sale is allowed again." : "Online sale is paused. Tills go on.";
  operate(done, "PATCH", "", { onlineSale });
});
$("resync").addEventListener("click", () => operate("The store was asked for its whole stock.", "POST", "/resync"));

/** What adopting means for a store, in words: the question and the answer. */
function adoption(store, epoch) {
  const { items } = store.claims.find((claim) => claim.epoch === epoch) || {};
  const stock = items === undefined ? "the stock that its database has" : `the ${count(items, "item")} of its database`;
  const follow = `Follow the agent with epoch ${epoch} from now on, with ${stock}?`;
  if (store.status !== "retired") {
    const rest = "The one that central follows today is then refused: make sure that only one agent runs.";
    return [`${follow} ${rest}`, `Yes, adopt epoch ${epoch}`];
  }
  if (epoch !== store.epoch) return [`${follow} The store then counts in totals again.`, "Yes, take it back"];
  const question = epoch
    ? "Take this store back with the stock that central knows? It counts in totals again and may sell online."
    : "Take this store back? It was retired before it had sent anything; once heard, it may sell online.";
  return [question, "Yes, take it back"];
}

/** Asks; what is done at yes is done by whoever asks. */
function confirmBy(question, answer, then) {
  text($("confirm-text"), question);
  text($("yes"), answer);
  confirmed = then;
  $("confirm").hidden = false;
  $("confirm").scrollIntoView({ block: "nearest" });
  $("no").focus();
}

let confirmed = null;
let asker;
function makeAdopt() {
  const button = make("button");
  button.type = "button";
  button.addEventListener("click", () => {
    asker = button;
    const epoch = Number(button.dataset.id);
    const adopt = (body) => operate("Done. The store goes on as soon as central hears it.", "POST", "/adopt", body, {
      // Central refuses to empty a store, as far as it knows, until it is told that this is meant.
      empty_claim: ({ detail }) => {
        const question = `${detail} What it does not have leaves the view, and nobody can buy it. Adopt it all the same?`;
        confirmBy(question, "Yes, even if that empties the store", () => adopt({ epoch, items: 0 }));
      },
    });
    confirmBy(...adoption(current(), epoch), () => adopt({ epoch }));
  });
  return button;
}
$("yes").addEventListener("click", () => {
  $("confirm").hidden = true;
  $("close").focus();
  confirmed();
});
$("no").addEventListener("click", () => {
  $("confirm").hidden = true;
  (asker.isConnected ? asker : $("close")).focus();
});
$("close").addEventListener("click", () => $("store").close());
$("store").addEventListener("close", () => {
  opened = null;
  history.replaceState(null, "", location.pathname + location.search);
});
window.addEventListener("hashchange", openStore);

// Records: purchases, events, dead letters.

const PURCHASE = {
  pending: ["…", "warn"], confirmed: ["✓", "good"], rejected: ["✕", "bad"], expired: ["✕", "bad"],
  cancelled: ["↩", "warn"],
};

function makeRecord(time, ...parts) {
  const stamp = make("time");
  stamp.dateTime = time;
  return make("li", "", stamp, ...parts);
}

/** Written again each time: what is of today is of yesterday tomorrow. */
function updateTime(node) {
  text(node.firstChild, clock(node.firstChild.dateTime));
}

function makePurchase(purchase) {
  return makeRecord(purchase.createdAt, make("span"), make("span"), make("span", "right"));
}

function updatePurchase(node, purchase) {
  const [, status, what, right] = node.children;
  const [mark, tone] = PURCHASE[purchase.status] || ["?", "warn"];
  text(status, `${mark} ${purchase.status}`);
  look(status, `status ${purchase.overdue ? "bad" : tone}`);
  const lines = purchase.lines.map((line) => `${number(line.quantity)} × ${line.productId}`).join(", ");
  const notes = [purchase.overdue && "overdue: the store has not answered", purchase.code && name(purchase.code),
    purchase.cancelRequestedAt && purchase.status === "pending" && "cancel asked for", purchase.picked && "picked"];
  text(what, [lines, ...notes.filter(Boolean)].join(" · "));
  text(right, purchase.storeId);
}

function makeEvent(event) {
  const delta = event.delta ? (event.delta > 0 ? "+" : "−") + number(Math.abs(event.delta)) : "";
  const what = [name(event.type), event.productId].filter(Boolean).join(": ");
  const store = make("span", "", event.storeId);
  return makeRecord(event.receivedAt, store, make("span", "", what), make("span", "right", delta));
}

function makeLetter(letter) {
  const parts = [make("span", "", letter.storeId), make("span", "", `${letter.type}: ${letter.reason}`)];
  const body = make("pre", "", letter.body);
  // A long one scrolls, with keys too.
  body.tabIndex = 0;
  return makeRecord(letter.receivedAt, ...parts, make("span", "right", letter.entryId), body);
}

function records(list, items, id, create, update = () => {}) {
  fill($(list), items, (item) => item[id], create, (node, item) => {
    updateTime(node);
    update(node, item);
  });
  const none = $(`${list}-none`);
  if (none) none.hidden = items.length > 0;
}

// The round: one request at a time.

let letters = null;
let late = [];
let rounds = 0;
let seenAt = null;
let timer;
let running = false;
let again = false;

const NO_REDIS = ["Redis cannot be reached", "Central hears no store and refuses online purchases. Tills go on selling; "
  + "figures are as last known. Bring Redis back, and everything resumes by itself."];
const NO_CENTRAL = ["Central does not answer", "What you see below is old. Stores go on selling; this page goes on asking."];

function banner([title, words]) {
  $("banner").hidden = !title;
  text($("banner-title"), title);
  text($("banner-text"), words);
}

/** All stores, page by page. */
async function allStores() {
  let page = await ask("stores");
  const all = page.items;
  while (page.nextCursor) {
    page = await ask(`stores?size=1000&cursor=${encodeURIComponent(page.nextCursor)}`);
    all.push(...page.items);
  }
  return all;
}

async function refresh() {
  const state = await ask("./");
  stores = (await allStores()).map((store) => judge(store, state.redis));
  if (rounds % SELDOM === 0) {
    // Overdue ones are old, so the latest purchases alone would not show them.
    const isAny = stores.some((store) => store.overduePurchases > 0);
    late = isAny ? (await ask("purchases?status=pending&size=200")).items.filter((purchase) => purchase.overdue) : [];
    const dead = (await ask("dead-letters").catch(unlessOperator)).items;
    letters = dead.length;
    $("dead").hidden = letters === 0;
    text($("dead-count"), number(letters));
    records("letters", dead.slice(0, 10), "id", makeLetter);
  }
  showStores();
  if (location.hash || $("store").open) openStore();
  const latest = (await ask("purchases?size=15")).items;
  const old = late.filter((purchase) => !latest.some((other) => other.purchaseId === purchase.purchaseId));
  records("purchases", [...old.slice(-5).reverse(), ...latest], "purchaseId", makePurchase, updatePurchase);
  records("events", (await ask("events?size=15")).items, "eventId", makeEvent);
  rounds += 1;
  seenAt = Date.now();
  text($("version"), `Version ${state.version}.`);
  text($("fresh"), "Live.");
  $("main").hidden = false;
  $("main").classList.remove("stale");
  banner(state.redis === "down" ? NO_REDIS : ["", ""]);
}

/** Central does not answer, or not so that the page can be drawn. */
function showLost() {
  banner(NO_CENTRAL);
  showStale();
}

/** What is shown is not renewed. */
function showStale() {
  $("main").classList.add("stale");
  text($("fresh"), seenAt ? `Figures are from ${clock(seenAt)}, ${age(Date.now() - seenAt)} ago.` : "No figures yet.");
}

async function round() {
  clearTimeout(timer);
  running = true;
  again = false;
  try {
    await refresh();
  } catch (error) {
    console.warn("the page could not be refreshed:", error);
    if (wantsToken(error)) showStale();
    else showLost();
  }
  running = false;
  if (!document.hidden) timer = setTimeout(round, again ? 0 : POLL_MS);
}

/** Asks at once, or as soon as the round at work is over. */
function wake() {
  if (running) again = true;
  else round();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else wake();
});
round();
