"use strict";
// The page of a store. It asks the agent what is new, changes only the nodes that differ (so that nothing a person is
// typing or pointing at goes away), and books what staff enter, each submission under one idempotency key.

const POLL_MS = 1500;
const ANSWER_MS = 10_000;
const STOCK_SIZE = 20;
const PICKS_SHOWN = 6;
const PICKS_ASKED = 100;

const $ = (id) => document.getElementById(id);
const store = $("store").textContent;

// Words and nodes. Data only ever becomes text: a name may contain "<".

const number = (value) => value.toLocaleString("en");
const units = (value) => (value === 1 ? "1 unit" : `${number(value)} units`);

/** The time of day, and of any other day than today its date too. */
function clock(time) {
  const at = new Date(time);
  if (at.toDateString() === new Date().toDateString()) return at.toLocaleTimeString("en-GB");
  return at.toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}

function age(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

/** Shows words, or hides the node when there are none. */
function show(node, words) {
  text(node, words);
  node.hidden = !words;
}

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function button(label, act) {
  const node = make("button", "", label);
  node.type = "button";
  node.addEventListener("click", act);
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

let hush;
function say(words) {
  text($("said"), words);
  clearTimeout(hush);
  hush = setTimeout(() => text($("said"), ""), 7000);
}

// Scanners. They are keyboards: a code is typed faster than by any hand, and Enter follows.

const SCAN_GAP_MS = 50;
const SCAN_LENGTH = 4;
let lastKeyAt = 0;
let burst = 0;
let isScan = false;

document.addEventListener("keydown", (event) => {
  const isFast = event.timeStamp - lastKeyAt < SCAN_GAP_MS;
  lastKeyAt = event.timeStamp;
  isScan = event.key === "Enter" && isFast && burst >= SCAN_LENGTH;
  if (event.key.length === 1) burst = isFast ? burst + 1 : 1;
}, true);
document.addEventListener("keyup", () => (isScan = false), true);

/** EAN-8, UPC-A, EAN-13 or GTIN-14: weighted with 1 and 3 from the right, the digits sum up to a multiple of ten. */
function isBarcode(digits) {
  if (!/^(\d{8}|\d{12,14})$/.test(digits)) return false;
  const weighted = [...digits].reverse().map((digit, at) => Number(digit) * (at % 2 ? 3 : 1));
  return weighted.reduce((sum, part) => sum + part) % 10 === 0;
}

// Asking the agent.

/** The agent said no, and why. */
class Refusal extends Error {
  constructor(problem) {
    super(problem.code);
    this.problem = problem;
  }
}

/** A name for one submission. Plain http has no randomUUID, and in a store the page often comes that way. */
function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A server with tokens wants one; this browser keeps the one that it was given. */
const TOKEN = "shelfstream-token";

/** Whether it is a token that is missing; then one is asked for. */
function wantsToken({ problem }) {
  if (problem?.code !== "unauthorized" && problem?.code !== "forbidden") return false;
  const isGiven = localStorage.getItem(TOKEN) !== null;
  show($("who-problem"), isGiven ? `The token that this browser has will not do: ${problem.detail}.` : "");
  if (!$("who").open) $("who").showModal();
  return true;
}

$("who-form").addEventListener("submit", (event) => {
  event.preventDefault();
  localStorage.setItem(TOKEN, $("token").value.trim());
  location.reload();
});

/** Throws a Refusal, or any other error when there was no answer that can be read. */
async function ask(path, { method = "GET", key, body } = {}) {
  const headers = { Accept: "application/json" };
  if (body) headers["Content-Type"] = "application/json";
  if (key) Object.assign(headers, { "Idempotency-Key": key, "Shelf-Actor": "page" });
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), ANSWER_MS);
  const token = localStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  try {
    const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: abort.signal });
    const json = await answer.json();
    if (!answer.ok) throw new Refusal(json);
    return { json, position: answer.headers.get("Shelf-Position") };
  } finally {
    clearTimeout(timer);
  }
}

/** What came of a write is open: it may be sent again, and only with the same key. */
function isOpen(error) {
  return !(error instanceof Refusal) || error.problem.retryable === true || error.problem.status >= 500;
}

function plain(problem, action) {
  const { code, available, quantity, reserved, allotted, errors, detail, title } = problem;
  switch (code) {
    case "insufficient_stock": {
      if (action === "adjust") return `Not booked: only ${units(quantity)} on hand. If there are more, use Count.`;
      const why = [`${number(quantity)} on hand`];
      if (reserved) why.push(`${number(reserved)} held for reservations`);
      if (allotted) why.push(`${number(allotted)} set aside for online sale`);
      return `Not booked: only ${units(available)} can be sold (${why.join(", ")}).`;
    }
    case "discontinued": return "Not booked: this product is discontinued. What is left may be sold.";
    case "limit_exceeded": return "Not booked: there would be more than 1,000,000,000 units.";
    case "unknown_product": return "Not booked: this store no longer has this product.";
    case "purchase_cancelled": return "The customer has cancelled. Put the units back on the shelf.";
    case "unknown_id": return "This purchase is no longer known here.";
    case "invalid_request": return `Not booked: ${(errors || []).map((error) => error.detail).join("; ") || detail}`;
    default: return detail || title || "The store’s server refused.";
  }
}

const UNKNOWN = "No answer came, so it is not known whether this was booked. Try again: it is booked once at most.";
const BUSY = "The store’s server could not do it just now. Try again: it is booked once at most.";

function explain(error, action) {
  if (!(error instanceof Refusal)) return UNKNOWN;
  return isOpen(error) ? BUSY : plain(error.problem, action);
}

// Connection state.

const STATES = {
  up: ["✓", "Connected", () => "What happens here is sent to the head office at once."],
  down: ["✕", "No connection to the head office", () => "Selling goes on. What happens here is kept and sent later."],
  off: ["‖", "Disconnected on purpose", (s) => `Since ${clock(s.since)}. Selling goes on; it is kept and sent later.`],
  fenced: ["!", "Cut off from the head office", () => "Selling goes on, but nothing is sent. Tell whoever looks after "
    + "this system."],
};

let lastSeen = null;

function showState(status) {
  const [mark, title, says] = STATES[status.link] || ["?", status.link, () => ""];
  $("state").dataset.link = status.link;
  text($("state-mark"), mark);
  text($("state-title"), title);
  text($("state-text"), says(status));
  show($("state-advice"), status.advice || "");
  show($("state-age"), "");
  text($("backlog"), number(status.backlog));
  text($("oldest"), status.backlog ? age(status.oldestUnsentMs) : "–");
  $("connect").hidden = status.link !== "off";
  const letters = status.deadLetters === 1 ? "1 message" : `${number(status.deadLetters)} messages`;
  const dead = `${letters} of the head office could not be understood. Tell whoever looks after this system.`;
  show($("dead"), status.deadLetters ? dead : "");
  const fresh = "The database of this store is new and has no products yet. If this store has sold before, book nothing "
    + "here and tell whoever looks after this system.";
  show($("new"), status.new ? fresh : "");
  text($("stock-count"), `${number(status.items)} products`);
  text($("pick-count"), status.toPick ? `${number(status.toPick)} waiting` : "");
  text($("pick-live"), status.toPick ? `${number(status.toPick)} online purchases wait to be picked` : "");
  $("pick-none").hidden = status.toPick > 0;
  document.title = status.toPick ? `(${status.toPick}) ${store}` : store;
  $("main").classList.remove("stale");
}

function showLost() {
  $("state").dataset.link = "lost";
  text($("state-mark"), "✕");
  text($("state-title"), "The store’s server does not answer");
  text($("state-text"), "This page goes on asking. What you see is old; nothing can be booked here until it answers.");
  showStale();
}

/** What is shown is not renewed. */
function showStale() {
  show($("state-age"), lastSeen ? `Figures are from ${clock(lastSeen)}, ${age(Date.now() - lastSeen)} ago.` : "");
  $("main").classList.add("stale");
}

$("connect").addEventListener("click", async () => {
  try {
    await ask("connected", { method: "POST" });
    wake();
  } catch {
    say("The store’s server did not answer.");
  }
});

// Online purchases to pick: whoever bought first comes first.

const names = new Map();
const pickKeys = new Map();
const DOUBLE_PRESS_MS = 500;
let pickedAt = -DOUBLE_PRESS_MS;
let showAllPicks = false;

/** Records say ids; staff knows names. */
async function learnNames(products) {
  for (const product of new Set(products)) {
    if (!product || names.has(product)) continue;
    try {
      names.set(product, (await ask(`inventory/${encodeURIComponent(product)}`)).json.name);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      names.set(product, product);
    }
  }
}

async function refreshPicks(count) {
  // Records come newest first, so the oldest are on the last page.
  const page = Math.min(Math.max(0, Math.ceil(count / PICKS_ASKED) - 1), 1000);
  const path = `purchases?picked=false&size=${PICKS_ASKED}&page=${page}`;
  const all = count ? (await ask(path)).json.items.reverse() : [];
  const shown = all.slice(0, showAllPicks ? PICKS_ASKED : PICKS_SHOWN);
  await learnNames(shown.flatMap((purchase) => purchase.lines.map((line) => line.productId)));
  fill($("picks"), shown, (purchase) => purchase.purchaseId, makePick, updatePick);
  const rest = count - shown.length;
  $("pick-more").hidden = all.length <= PICKS_SHOWN;
  text($("pick-rest"), rest > 0 ? `${number(rest)} more after these.` : "");
  text($("pick-all"), showAllPicks ? "Show fewer" : "Show more");
  for (const id of pickKeys.keys()) if (!all.some((purchase) => purchase.purchaseId === id)) pickKeys.delete(id);
}

const lineOf = ({ productId, quantity }) => `${number(quantity)} × ${names.get(productId)}`;
const linesOf = (purchase) => purchase.lines.map(lineOf).join(", ");
const tailOf = (purchase) => purchase.reference || purchase.purchaseId.slice(-8);

function makePick(purchase) {
  const words = make("div", "pick-words");
  for (const { productId, quantity } of purchase.lines) {
    const name = names.get(productId);
    words.append(make("p", "pick-what", make("span", "pick-units", `${number(quantity)} ×`), ` ${name}`));
    if (name !== productId) words.append(make("p", "about", productId));
  }
  words.append(make("p", "about"));
  const problem = make("p", "problem");
  show(problem, "");
  problem.setAttribute("role", "alert");
  const picked = button("Picked", () => pick(purchase, picked, problem));
  picked.className = "main";
  picked.setAttribute("aria-label", `Picked: ${linesOf(purchase)}, order ${tailOf(purchase)}`);
  return make("li", "pick", words, picked, problem);
}

/** The time is written again with each list: what is of today is of yesterday tomorrow. */
function updatePick(node, purchase) {
  text(node.querySelector(".pick-words").lastChild, `Order ${tailOf(purchase)} · ${clock(purchase.createdAt)}`);
}

async function pick(purchase, picked, problem) {
  // The next order moves up to where the picked one was: the second press of two was not meant for it.
  if (performance.now() - pickedAt < DOUBLE_PRESS_MS) return;
  const id = purchase.purchaseId;
  // The key stays until an answer came: pressing again then asks for the same thing.
  if (!pickKeys.has(id)) pickKeys.set(id, newKey());
  picked.disabled = true;
  show(problem, "");
  try {
    await ask(`purchases/${id}/picked`, { method: "POST", key: pickKeys.get(id) });
    const card = picked.closest("li");
    const next = card.nextElementSibling || card.previousElementSibling;
    card.remove();
    pickedAt = performance.now();
    (next ? next.querySelector("button") : $("pick-title")).focus();
    say(`Picked ${linesOf(purchase)}.`);
    wake(true);
  } catch (error) {
    picked.disabled = false;
    if (document.activeElement === document.body) picked.focus();
    text(picked, isOpen(error) ? "Try again" : "Picked");
    show(problem, explain(error, "pick"));
    if (!isOpen(error)) pickKeys.delete(id);
  }
}

// A key that is held down picks once.
$("picks").addEventListener("keydown", (event) => event.repeat && event.key === "Enter" && event.preventDefault());
$("pick-all").addEventListener("click", () => {
  showAllPicks = !showAllPicks;
  wake(true);
});

// Stock.

let wanted = "";
let trail = [null];
let following = null;

async function refreshStock() {
  const [q, cursor] = [wanted, trail[trail.length - 1]];
  const query = new URLSearchParams({ size: STOCK_SIZE });
  if (q) query.set("q", q);
  if (cursor) query.set("cursor", cursor);
  const { items, nextCursor } = (await ask(`inventory?${query}`)).json;
  // Meanwhile something else may have been asked for; the next round fetches that.
  if (q !== wanted || cursor !== trail[trail.length - 1]) return;
  // A search may find nothing in one part of a long list: the next round looks through the next part.
  const goesOn = !items.length && nextCursor !== null;
  following = goesOn ? null : nextCursor;
  if (goesOn) {
    trail[trail.length - 1] = nextCursor;
    wake(true);
  }
  for (const item of items) names.set(item.productId, item.name);
  fill($("stock"), items, (item) => item.productId, makeItem, updateItem);
  let none = "This store has no products yet. They come with the first import or from the head office.";
  if (goesOn) none = `Looking for “${q}” …`;
  else if (trail.length > 1) none = "No more products.";
  else if (q) none = `Nothing is called “${q}”.`;
  show($("stock-none"), items.length ? "" : none);
  const turned = document.activeElement;
  $("prev").disabled = trail.length === 1;
  $("next").disabled = !following;
  $("pages").hidden = trail.length === 1 && !following;
  // A button that goes dead would drop the focus to the top of the page.
  if (turned === $("next") && !following) $("prev").focus();
  if (turned === $("prev") && trail.length === 1) $("next").focus();
  text($("page-number"), `Page ${trail.length}`);
  if (act) showNow(items.find((item) => item.productId === act.item.productId));
  if (goesOn || entered === null || entered !== q) return;
  entered = null;
  const exact = items.find((item) => item.productId === q);
  const hit = exact || (items.length === 1 && trail.length === 1 && !nextCursor ? items[0] : null);
  if (hit && !act) openHit(hit);
}

/** Enter was pressed: the only product of this name, or the one with just this number, is the one that was meant. */
function openHit(item) {
  text($("hit-title"), item.name);
  text($("hit-now"), nowOf(item));
  HIT.item = item;
  if (!HIT.open) HIT.showModal();
  // Not a button: a scanner that ends with two Enters does nothing more.
  $("hit-title").focus();
}

const HIT = $("hit");

/** The next code, or name, takes the place of the last. */
function searchAgain() {
  if (HIT.open) HIT.close();
  $("q").focus();
  $("q").select();
}

$("hit-close").addEventListener("click", searchAgain);
HIT.addEventListener("cancel", (event) => {
  event.preventDefault();
  searchAgain();
});
document.addEventListener("keydown", (event) => {
  const isTyped = /^[\p{L}\p{N}]$/u.test(event.key) && !event.ctrlKey && !event.altKey && !event.metaKey;
  if (isTyped && !act && !event.target.closest("input, select")) searchAgain();
});

/** What may be done with an item: its name, the button that books it, what was done, what it may refer to. */
const ACTIONS = {
  sell: ["Sell", "Book the sale", "Sold", "Receipt"],
  receive: ["Receive", "Book what came in", "Received", "Delivery note"],
  adjust: ["Adjust", "Book it", "Adjusted", "Reference"],
  count: ["Count", "Book the count", "Counted", "Count list"],
};

for (const [action, [label]] of Object.entries(ACTIONS)) {
  $("hit-actions").append(button(label, () => {
    HIT.close();
    openAct(action, HIT.item, $("q"));
  }));
}

function makeItem(item) {
  const figure = (part, label) => make("div", "number", make("b", part), label);
  const actions = make("div", "actions");
  const words = make("div", "", make("div", "name"), make("div", "about", make("span"), " ", make("b")));
  const node = make("li", "", words, figure("available", "can be sold"), figure("quantity", "on hand"), actions);
  for (const [action, [label]] of Object.entries(ACTIONS)) {
    const act = button(label, () => openAct(action, node.item, act));
    act.dataset.action = action;
    actions.append(act);
  }
  return node;
}

function updateItem(node, item) {
  node.item = item;
  text(node.querySelector(".name"), item.name);
  const about = item.name === item.productId ? [] : [item.productId];
  if (item.reserved) about.push(`${number(item.reserved)} held`);
  if (item.allotted) about.push(`${number(item.allotted)} set aside for online sale`);
  text(node.querySelector(".about span"), about.join(" · "));
  const low = item.lowAt !== null && item.available <= item.lowAt;
  const notes = [item.available === 0 ? "Sold out" : low && "Running low", item.discontinued && "Discontinued"];
  text(node.querySelector(".about b"), notes.filter(Boolean).join(" · "));
  text(node.querySelector(".available"), number(item.available));
  text(node.querySelector(".quantity"), number(item.quantity));
  for (const act of node.querySelectorAll("button")) {
    const label = `${ACTIONS[act.dataset.action][0]}: ${item.name}`;
    if (act.getAttribute("aria-label") !== label) act.setAttribute("aria-label", label);
  }
}

let typing;
let entered = null;

function search(q) {
  clearTimeout(typing);
  wanted = q;
  trail = [null];
  wake(true);
}

$("q").addEventListener("input", () => {
  clearTimeout(typing);
  entered = null;
  const q = $("q").value.trim();
  text($("q-hint"), q.length === 1 ? "Two characters at least." : "");
  if (q.length !== 1) typing = setTimeout(() => q !== wanted && search(q), 250);
});
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const q = $("q").value.trim();
  if (q.length < 2) return;
  $("q").select();
  entered = q;
  search(q);
});

/** A page is read from its top. */
function turn() {
  if ($("stock-title").getBoundingClientRect().top < 0) $("stock-title").scrollIntoView();
  wake(true);
}

$("next").addEventListener("click", () => {
  if (following) trail.push(following);
  following = null;
  turn();
});
$("prev").addEventListener("click", () => {
  if (trail.length > 1) trail.pop();
  turn();
});

// Booking: one dialog for all four actions. It stands apart from the list, so no refresh can touch it.

const DIALOG = $("act");
const MOST = 1_000_000;
// More than so many units, and more or fewer by this factor, are asked about once more.
const FEW = 100;
const FAR = 10;
let act = null;

const nowOf = (item) => `Now ${number(item.quantity)} on hand, ${number(item.available)} can be sold.`;

function showNow(item) {
  if (!item) return;
  act.item = item;
  text($("act-now"), nowOf(item));
}

/** Entered, asked whether it is meant so, sent, open: while an answer is awaited, or may still be asked for again, the
 * form stays as it was sent. */
function setStage(stage) {
  $("fields").disabled = !["enter", "ask"].includes(stage);
  $("submit").hidden = ["ask", "open"].includes(stage);
  $("sure").hidden = stage !== "ask";
  $("submit").disabled = stage === "sent";
  $("retry").hidden = stage !== "open";
  $("cancel").disabled = stage === "sent";
  text($("cancel"), stage === "open" ? "Give up" : "Cancel");
  act.stage = stage;
}

async function openAct(action, item, opener) {
  if (act) return;
  act = { action, item, opener };
  $("form").reset();
  const isCount = action === "count";
  const [label, submit, , reference] = ACTIONS[action];
  text($("act-title"), `${label}: ${item.name}`);
  text($("submit"), submit);
  text($("units-label"), isCount ? "Units on the shelf" : "Units");
  text($("reference-label"), `${reference} (optional)`);
  $("direction").hidden = $("why").hidden = action !== "adjust";
  $("reason").required = action === "adjust";
  $("units").min = isCount ? 0 : 1;
  $("units").max = isCount ? 1000 * MOST : MOST;
  $("units").value = isCount ? "" : 1;
  show($("act-pending"), "");
  showNow(item);
  show($("act-problem"), "");
  setStage("enter");
  DIALOG.showModal();
  $("units").select();
  if (isCount) await prepareCount(act);
}

/** What a count leaves out, and the position at which that is so: sales after it are then taken off by the store. */
async function prepareCount(mine) {
  setStage("sent");
  const product = encodeURIComponent(mine.item.productId);
  const path = `inventory/${product}`;
  try {
    for (let round = 0; ; round += 1) {
      const before = (await ask(path)).json;
      const waiting = await ask(`purchases?picked=false&size=1000&productId=${product}`);
      const after = (await ask(path)).json;
      // Sold in between: the position and the number would not belong together.
      if (before.version !== after.version) {
        if (round < 5) continue;
        closeAct("This product is being sold just now. Try again.");
        return;
      }
      const lines = waiting.json.items.flatMap((purchase) => purchase.lines)
        .filter((line) => line.productId === mine.item.productId);
      const sum = lines.reduce((total, line) => total + line.quantity, 0);
      mine.countedAt = waiting.position;
      const more = waiting.json.nextCursor ? " or more" : "";
      const leave = sum
        ? `Do not count what waits to be picked for online purchases: ${units(sum)}${more}.`
        : "Nothing of it waits to be picked.";
      show($("act-pending"), `${leave} Count now: what is sold after ${clock(Date.now())} is taken off by itself.`);
      showNow(after);
      break;
    }
    setStage("enter");
    $("units").focus();
  } catch (error) {
    closeAct(error instanceof Refusal ? plain(error.problem, "count") : "No answer came. Try again.");
  }
}

function closeAct(words) {
  const { opener } = act;
  act = null;
  DIALOG.close();
  if (opener === $("q")) searchAgain();
  else if (opener.isConnected) opener.focus();
  say(words);
}

/** What the form asks for; the key is new with each submission. */
function request() {
  const product = encodeURIComponent(act.item.productId);
  const key = newKey();
  const quantity = Number($("units").value);
  const reference = $("reference").value.trim() || undefined;
  if (act.action === "sell") return { method: "POST", path: `purchase/${product}`, key, body: { quantity, reference } };
  const path = `inventory/${product}`;
  if (act.action === "receive") return { method: "POST", path: `${path}/receive`, key, body: { quantity, reference } };
  if (act.action === "count") {
    return { method: "PUT", path, key, body: { quantity, countedAt: act.countedAt, countRef: reference } };
  }
  const delta = quantity * Number($("form").elements.sign.value);
  const note = $("note").value.trim() || undefined;
  return { method: "POST", path: `${path}/adjust`, key, body: { delta, reason: $("reason").value, note, reference } };
}

async function send() {
  setStage("sent");
  show($("act-problem"), "");
  try {
    const { path, ...rest } = act.request;
    const { json } = await ask(path, rest);
    const found = json.difference === undefined ? "" : `, difference ${number(json.difference)}`;
    const ended = json.endedReservations ?? [];
    const orders = ended.map(({ reservationId, reference }) => reference ?? reservationId).join(", ");
    const short = ended.length === 0 ? "" : ` Units are missing, and no longer reserved for: ${orders}.`;
    closeAct(`${ACTIONS[act.action][2]}: ${json.name}${found}.${short} ${nowOf(json)}`);
    wake(true);
  } catch (error) {
    setStage(isOpen(error) ? "open" : "enter");
    show($("act-problem"), explain(error, act.action));
    if (isOpen(error)) $("retry").focus();
    else $("units").select();
  }
}

/** Why what was entered is not likely to be meant; empty if it is. */
function doubt() {
  const digits = $("units").value;
  if (isScan || isBarcode(digits)) return `${digits} looks like a scanned barcode, not like a number of units.`;
  const [before, units] = [act.item.quantity, Number(digits)];
  const delta = { sell: -units, receive: units, adjust: units * Number($("form").elements.sign.value) };
  const after = act.action === "count" ? units : before + delta[act.action];
  const [less, more] = [Math.max(0, Math.min(before, after)), Math.max(before, after)];
  if (more <= FEW || more <= less * FAR) return "";
  return `That is far from what is known: from ${number(before)} on hand to ${number(after)}.`;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!act || !["enter", "ask"].includes(act.stage)) return;
  // A code that was scanned into another field stands there; nobody has asked for more.
  if (isScan && document.activeElement !== $("units")) return;
  const why = doubt();
  if (!why) return book();
  // Not by Enter: that is what the scanner presses. It takes a click, or a step to the button.
  setStage("ask");
  text($("sure"), `Yes, it is ${number(Number($("units").value))}`);
  show($("act-problem"), `${why} Nothing is booked yet.`);
  $("units").select();
});

function book() {
  // A refused request did nothing, so what is entered after it is a new submission with a new key.
  act.request = request();
  send();
}

/** What was asked was asked about other figures. */
function edited() {
  if (act.stage !== "ask") return;
  setStage("enter");
  show($("act-problem"), "");
}

$("form").addEventListener("input", edited);
$("sure").addEventListener("click", book);
$("units").addEventListener("invalid", (event) => {
  if (!isBarcode($("units").value)) return;
  event.preventDefault();
  show($("act-problem"), doubt());
  $("units").select();
});
$("retry").addEventListener("click", send);
$("cancel").addEventListener("click", () => {
  closeAct(act.stage === "open" ? "See what happened last before booking it again: it may have been booked." : "");
});
DIALOG.addEventListener("cancel", (event) => {
  event.preventDefault();
  if (!$("cancel").disabled) $("cancel").click();
});
for (const [id, step] of [["less", -1], ["plus", 1]]) {
  $(id).addEventListener("click", () => {
    const field = $("units");
    field.value = Math.min(Math.max(Number(field.value) + step, Number(field.min)), Number(field.max));
    edited();
  });
}

// What happened last.

const HAPPENED = {
  item_created: "New product", item_changed: "Changed", received: "Received", sold: "Sold", adjusted: "Adjusted",
  counted: "Counted", purchase_confirmed: "Sold online", purchase_rejected: "Online purchase refused",
  purchase_expired: "Online purchase came too late", purchase_cancelled: "Online purchase cancelled",
  purchase_picked: "Picked", command_refused: "Request of the head office refused", shortage: "Shortage",
  low_stock: "Running low", epoch_opened: "Records opened", snapshot_page: "Whole stock sent",
  snapshot_end: "Whole stock sent to the end", outcome_repeated: "Answer repeated",
  ready: "Ready for the head office",
};

async function refreshEvents() {
  const { items } = (await ask("events?size=15")).json;
  await learnNames(items.map((event) => event.productId));
  fill($("events"), items, (event) => event.position, makeEvent, (node) => {
    text(node.firstChild, clock(node.firstChild.dateTime));
  });
  show($("events-none"), items.length ? "" : "Nothing yet.");
}

function makeEvent(event) {
  const time = make("time");
  time.dateTime = event.recordedAt;
  const product = event.productId ? `: ${names.get(event.productId)}` : "";
  const delta = event.delta ? (event.delta > 0 ? "+" : "−") + number(Math.abs(event.delta)) : "";
  const words = HAPPENED[event.type] || event.type.replaceAll("_", " ");
  return make("li", "", time, make("span", "what", words + product), make("span", "left", delta));
}

// The round: one request at a time, and the lists only when the ledger has grown or a new day has begun.

let shownHead = "";
let dirty = true;
let timer;
let running = false;
let again = false;

async function refresh() {
  const { json: status } = await ask("status");
  showState(status);
  // With the day, since what is of today has no date.
  const head = `${status.epoch}-${status.head} ${new Date().toDateString()}`;
  if (dirty || head !== shownHead) {
    dirty = false;
    shownHead = "";
    await refreshPicks(status.toPick);
    await refreshStock();
    await refreshEvents();
    if ($("main").hidden) {
      $("main").hidden = false;
      if (document.activeElement === document.body) $("q").focus({ preventScroll: true });
    }
    // Only now: what failed half way is asked for again.
    shownHead = head;
  }
  lastSeen = Date.now();
}

async function round() {
  clearTimeout(timer);
  running = true;
  again = false;
  try {
    await refresh();
  } catch (error) {
    // A refusal is an answer too, but not one from which the page can be drawn.
    console.warn("the page could not be refreshed:", error);
    if (wantsToken(error)) showStale();
    else showLost();
  }
  running = false;
  if (!document.hidden) timer = setTimeout(round, again ? 0 : POLL_MS);
}

/** Asks at once, or as soon as the request in flight is answered. */
function wake(lists = false) {
  dirty ||= lists;
  if (running) again = true;
  else round();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else wake();
});
round();
