// A store's page, used by hand and by scanner.

import assert from "node:assert/strict";
import { before } from "node:test";
import { api, giveToken, loseToken, onPage, scan, shot, type, until } from "./browser.mjs";

const STORE = process.env.STORE_URL;
const CENTRAL = process.env.CENTRAL_URL;
const TEA = "96385074";
const COFFEE = "4006381333931";

before(async () => {
  await api(STORE, "inventory", { productId: TEA, name: "Green tea", quantity: 12 });
  await api(STORE, "inventory", { productId: COFFEE, name: "Coffee", quantity: 500 });
  await api(STORE, "inventory", { productId: "4006381333932", name: "Coffee, decaf", quantity: 5 });
});

const quantity = async (product) => (await api(STORE, `inventory/${product}`)).quantity;
const focus = (page) => page.evaluate(() => document.activeElement.id);
const said = (page, words) => until(`it says ${words}`, async () => (await page.textContent("#said")).includes(words));

async function open(page, action, product) {
  await page.locator(`#stock li[data-id="${product}"] button[data-action=${action}]`).click();
  await page.locator("#fields:enabled").waitFor();
}

/** What was entered is doubted, and nothing has been booked. */
async function doubted(page, words, product, expected) {
  await page.locator("#act-problem", { hasText: words }).waitFor();
  assert.equal(await quantity(product), expected);
  assert.equal(await page.locator("#act").evaluate((dialog) => dialog.open), true);
}

onPage("the search has the focus, a scan opens its product, the next scan replaces the last", STORE, async (page) => {
  await page.locator("#stock li").first().waitFor();
  assert.equal(await focus(page), "q");
  await scan(page, TEA);
  await page.locator("#hit h2", { hasText: "Green tea" }).waitFor();
  await shot(page, "a product was scanned");
  // Whatever has the focus now.
  await scan(page, COFFEE);
  await page.locator("#hit h2", { hasText: /^Coffee$/ }).waitFor();
  assert.equal(await page.inputValue("#q"), COFFEE);
  await page.locator("#hit-close").click();
  await scan(page, TEA);
  await page.locator("#hit h2", { hasText: "Green tea" }).waitFor();
  await page.locator("#hit button", { hasText: "Sell" }).click();
  await page.locator("#submit").click();
  await said(page, "Sold: Green tea. Now 11 on hand");
  assert.equal(await focus(page), "q");
  await scan(page, COFFEE);
  await page.locator("#hit h2", { hasText: /^Coffee$/ }).waitFor();
  assert.deepEqual([await quantity(TEA), await quantity(COFFEE)], [11, 500]);
});

onPage("Enter opens the only hit, and none of several", STORE, async (page) => {
  await page.locator("#stock li").first().waitFor();
  await type(page, "coffee");
  await page.keyboard.press("Enter");
  await until("the list is of two", async () => (await page.locator("#stock li").count()) === 2);
  assert.equal(await page.locator("#hit").evaluate((dialog) => dialog.open), false);
  await type(page, "decaf");
  await page.keyboard.press("Enter");
  await page.locator("#hit h2", { hasText: "Coffee, decaf" }).waitFor();
  await page.keyboard.press("Enter");
  await page.keyboard.press("Escape");
  await page.locator("#hit h2").waitFor({ state: "hidden" });
  assert.equal(await page.locator("#act").evaluate((dialog) => dialog.open), false);
});

onPage("a search goes on to the end of a long list before nothing is found", STORE, async (page) => {
  let goOn;
  const hasSeen = new Promise((resolve) => (goOn = resolve));
  await page.route((url) => url.pathname === "/inventory" && url.searchParams.has("q"), async (route) => {
    const url = new URL(route.request().url());
    // As of a list that is so long that its first part has nothing of it.
    if (!url.searchParams.has("cursor")) return route.fulfill({ json: { items: [], nextCursor: "behind" } });
    await hasSeen;
    url.searchParams.delete("cursor");
    await route.fulfill({ response: await route.fetch({ url: url.href }) });
  });
  await page.locator("#stock li").first().waitFor();
  await type(page, "decaf");
  await page.keyboard.press("Enter");
  await page.locator("#stock-none", { hasText: "Looking for “decaf”" }).waitFor();
  assert.equal(await page.locator("#next").isVisible(), false);
  await shot(page, "a search that goes on");
  goOn();
  await page.locator("#hit h2", { hasText: "Coffee, decaf" }).waitFor();
  assert.equal(await page.locator("#stock-none").isVisible(), false);
  await page.locator("#hit-close").click();
  await type(page, "nowhere");
  await page.locator("#stock-none", { hasText: "Nothing is called “nowhere”." }).waitFor();
});

onPage("a code that is scanned into a count is not booked", STORE, async (page) => {
  await open(page, "count", TEA);
  await scan(page, TEA);
  await doubted(page, "looks like a scanned barcode", TEA, 11);
  await shot(page, "a barcode in a count");
  // Another one, and another Enter.
  await scan(page, COFFEE);
  await page.keyboard.press("Enter");
  await doubted(page, "looks like a scanned barcode", TEA, 11);
  // Typed by hand it is still a barcode; one of the house has no check digit, but a scanner's speed.
  await page.locator("#units").fill("");
  await type(page, TEA);
  await page.keyboard.press("Enter");
  await doubted(page, "looks like a scanned barcode", TEA, 11);
  await page.locator("#units").fill("");
  await scan(page, "00042");
  await doubted(page, "looks like a scanned barcode", TEA, 11);
  await page.locator("#units").fill("");
  await type(page, "13");
  await page.keyboard.press("Enter");
  await said(page, "Counted: Green tea, difference 2");
  assert.equal(await quantity(TEA), 13);
});

onPage("what is far from what is known is asked about once more", STORE, async (page) => {
  await open(page, "count", TEA);
  await type(page, "1300");
  await page.keyboard.press("Enter");
  await doubted(page, "from 13 on hand to 1,300", TEA, 13);
  await page.keyboard.press("Enter");
  await doubted(page, "from 13 on hand to 1,300", TEA, 13);
  await shot(page, "far from what is known");
  // Corrected, it is no question any more.
  await type(page, "15");
  await page.keyboard.press("Enter");
  await said(page, "difference 2");
  await open(page, "receive", TEA);
  await type(page, "1000");
  await page.keyboard.press("Enter");
  await doubted(page, "from 15 on hand to 1,015", TEA, 15);
  await page.locator("#sure", { hasText: "Yes, it is 1,000" }).click();
  await said(page, "Received: Green tea");
  assert.equal(await quantity(TEA), 1015);
  await open(page, "count", COFFEE);
  await type(page, "0");
  await page.keyboard.press("Enter");
  await doubted(page, "from 500 on hand to 0", COFFEE, 500);
});

onPage("a delivery note that is scanned books nothing", STORE, async (page) => {
  await open(page, "receive", COFFEE);
  await page.locator("#reference").click();
  await scan(page, "88210045");
  assert.equal(await page.inputValue("#reference"), "88210045");
  await page.locator("#units").click();
  await page.keyboard.press("Enter");
  await said(page, "Received: Coffee. Now 501 on hand");
  const { items } = await api(STORE, "events?size=1");
  assert.equal(items[0].reference, "88210045", "one event, with what was scanned");
});

onPage("a new database is announced", STORE, async (page) => {
  await page.locator("#stock li").first().waitFor();
  assert.equal(await page.locator("#new").isVisible(), false);
  await page.route((url) => url.pathname === "/status", async (route) => {
    const status = await (await route.fetch()).json();
    await route.fulfill({ json: { ...status, new: true } });
  });
  await page.locator("#new", { hasText: "If this store has sold before" }).waitFor();
});

onPage("a count leaves out what waits to be picked of this product alone", STORE, async (page) => {
  for (const product of ["ale", "bun"]) await api(STORE, "inventory", { productId: product, name: product, quantity: 40 });
  const lines = [{ productId: "ale", quantity: 2 }, { productId: "bun", quantity: 30 }];
  await until("central sells both", async () => {
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify({ storeId: "store-1", lines });
    return (await fetch(`${CENTRAL}/v1/purchase`, { method: "POST", headers, body })).status === 200;
  });
  await page.locator("#q").fill("ale");
  await open(page, "count", "ale");
  await page.locator("#act-pending", { hasText: "online purchases: 2 units." }).waitFor();
  await shot(page, "a count beside a cart");
});

onPage("a server with tokens asks who is there, until it knows", process.env.GUARDED_URL, async (page) => {
  await page.locator("#who[open]").waitFor();
  await shot(page, "a token is wanted");
  assert.equal(await page.locator("#who-problem").isVisible(), false);
  await giveToken(page, "shelf_0");
  await page.locator("#who-problem", { hasText: "will not do: this token is not known here" }).waitFor();
  await giveToken(page, process.env.TOKEN);
  await page.locator("#main").waitFor();
  assert.equal(await page.locator("#who").isVisible(), false);
  await page.reload();
  await page.locator("#main").waitFor();
  await loseToken(page);
  await page.locator("#main.stale").waitFor();
  await page.locator("#who[open]").waitFor();
});
