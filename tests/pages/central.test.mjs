// Central's dashboard: on the real one, and on stores in states that take long to bring about.

import assert from "node:assert/strict";
import { giveToken, loseToken, onPage, shot, until } from "./browser.mjs";

const CENTRAL = process.env.CENTRAL_URL;

/** What central tells of a store that is well, but for `more`. */
const told = (storeId, more) => ({
  storeId, status: "online", onlineSale: true, lastBeatAgeMs: 100, lagMs: 0, backlog: 0, oldestUnsentMs: 0, epoch: 7,
  head: 20, applied: 20, asOf: "2026-01-01T00:00:00.000Z", digest: "equal", digestValue: "ab12", openPurchases: 0,
  overduePurchases: 0, agentVersion: "0.1.0", claims: [], warnings: [], ...more,
});

/** From now on central tells these stores, a page of the list for each cursor. */
async function tell(page, pages) {
  await page.route((url) => url.pathname === "/stores", (route) => {
    const cursor = new URL(route.request().url()).searchParams.get("cursor") ?? "";
    route.fulfill({ json: pages[cursor] });
  });
}

const row = (page, store) => page.locator("#stores tr", { has: page.getByRole("link", { name: store, exact: true }) });
const cell = (page, store, label) => row(page, store).locator(`td[data-label="${label}"]`).innerText();

onPage("it shows the store that there is", CENTRAL, async (page) => {
  await row(page, "store-1").waitFor();
  await until("it is equal", async () => (await cell(page, "store-1", "Digest")) === "= equal");
  await shot(page, "central");
});

onPage("it follows all pages of the list", CENTRAL, async (page) => {
  await tell(page, {
    "": { items: [told("s-1")], nextCursor: "a b&c" },
    "a b&c": { items: [told("s-2")], nextCursor: "d" },
    d: { items: [told("s-3")], nextCursor: null },
  });
  for (const store of ["s-1", "s-2", "s-3"]) await row(page, store).waitFor();
});

onPage("a fenced store shows no other epoch's figures", CENTRAL, async (page) => {
  const figures = { lagMs: 3, head: 99, backlog: 5 };
  await tell(page, { "": { items: [told("s-1", { status: "fenced", claims: [{ epoch: 9 }], ...figures })] } });
  await row(page, "s-1").waitFor();
  assert.equal(await cell(page, "s-1", "Lag"), "–");
  assert.equal(await cell(page, "s-1", "Backlog"), "unknown");
  assert.equal(await cell(page, "s-1", "Digest"), "unknown");
  assert.equal(await cell(page, "s-1", "Epoch:head"), "7:?");
});

onPage("a stopped agent that goes on selling is seen beside the one that central follows", CENTRAL, async (page) => {
  const stoppedAgent = { epoch: 5, why: "superseded", items: 312, backlog: 4, forMs: 90_000, agentVersion: "0.1.0" };
  const warnings = ["an agent has stopped itself (superseded) with epoch 5; it goes on selling at the till"];
  await tell(page, { "": { items: [told("s-1", { stoppedAgent, warnings })] } });
  await row(page, "s-1").waitFor();
  const status = await cell(page, "s-1", "Status");
  assert.match(status, /epoch 5 has stopped itself \(superseded\) and sells on, for 1 min 30 s: 312 items, 4 entries/);
  assert.equal(status.match(/stopped itself/g).length, 1, "told once");
  assert.equal(await row(page, "s-1").getAttribute("class"), "bad");
  await shot(page, "a stopped agent");
});

onPage("adopting says what the claimant brings, and asks again before it empties the store", CENTRAL, async (page) => {
  const claims = [{ epoch: 9, items: 312, backlog: 4, forMs: 5_000 }, { epoch: 11 }];
  await tell(page, { "": { items: [told("s-1", { status: "fenced", claims })] } });
  const asked = [];
  await page.route("**/stores/s-1/adopt", (route) => {
    const body = route.request().postDataJSON();
    asked.push(body);
    if (body.epoch === 9 || body.items === 0) return route.fulfill({ status: 202, json: told("s-1") });
    const problem = { code: "empty_claim", status: 409, title: "Empty", detail: "Nobody knows what it has." };
    return route.fulfill({ status: 409, json: problem });
  });
  await row(page, "s-1").click();
  await page.getByRole("button", { name: "Adopt epoch 9 (312 items)" }).click();
  await page.locator("#confirm-text", { hasText: "with the 312 items of its database" }).waitFor();
  await page.locator("#yes").click();
  await page.locator("#answer", { hasText: "Done." }).waitFor();
  assert.deepEqual(asked, [{ epoch: 9 }]);
  await page.getByRole("button", { name: "Adopt epoch 11" }).click();
  await page.locator("#yes").click();
  await page.locator("#confirm-text", { hasText: "Nobody knows what it has." }).waitFor();
  await shot(page, "adopting asks again");
  assert.deepEqual(asked, [{ epoch: 9 }, { epoch: 11 }]);
  await page.locator("#yes", { hasText: "even if that empties the store" }).click();
  await page.locator("#answer", { hasText: "Done." }).waitFor();
  assert.deepEqual(asked.at(-1), { epoch: 11, items: 0 });
});

onPage("who is no operator sees all but dead letters", CENTRAL, async (page) => {
  await page.route("**/dead-letters", (route) => {
    const json = { code: "forbidden", detail: "this needs a token with the scope operate" };
    return route.fulfill({ status: 403, json });
  });
  await page.reload();
  await page.locator("#main").waitFor();
  await page.locator("#fresh", { hasText: "Live." }).waitFor();
  assert.equal(await page.locator("#who").isVisible(), false);
});

onPage("a central with tokens asks who is there, until it knows", process.env.GUARDED_CENTRAL_URL, async (page) => {
  await page.locator("#who[open]").waitFor();
  await shot(page, "central wants a token");
  assert.equal(await page.locator("#who-problem").isVisible(), false);
  assert.equal(await page.getByRole("link", { name: "store-2" }).count(), 0, "nothing is shown before");
  await giveToken(page, "shelf_0");
  await page.locator("#who-problem", { hasText: "will not do: this token is not known here" }).waitFor();
  await giveToken(page, process.env.TOKEN);
  await row(page, "store-2").waitFor();
  await until("it is equal", async () => (await cell(page, "store-2", "Digest")) === "= equal");
  assert.equal(await page.locator("#who").isVisible(), false);
  await page.reload();
  await row(page, "store-2").waitFor();
  await loseToken(page);
  await page.locator("#main.stale").waitFor();
  await page.locator("#who[open]").waitFor();
});
