// A browser for the scripts: a page of its own for each, a hand that types like people and one that types like a
// scanner, and a screenshot of whatever failed.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { join } from "node:path";
import { chromium } from "playwright-core";

const HAND_MS = 90;
const SCANNER_MS = 4;

let browser;
before(async () => {
  // The pages are our own, and root may not have a sandbox.
  browser = await chromium.launch({ executablePath: process.env.BROWSER, args: ["--no-sandbox"] });
});
after(() => browser.close());

/** A test on a page at this address, with the functions below bound to it. */
export function onPage(name, address, use, options = {}) {
  test(name, async () => {
    const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, ...options });
    const page = await context.newPage();
    const broken = [];
    page.on("pageerror", (error) => broken.push(error));
    page.setDefaultTimeout(15_000);
    try {
      await page.goto(address);
      await use(page);
      assert.deepEqual(broken, [], "the page's script failed");
    } catch (error) {
      await shot(page, `failed ${name}`);
      throw error;
    } finally {
      await context.close();
    }
  });
}

/** A screenshot, to be looked at. */
export async function shot(page, name) {
  const path = join(process.env.SCREENSHOTS || ".", `${name.replaceAll(/[^a-z0-9]+/gi, "-")}.png`);
  await page.screenshot({ path, fullPage: true });
}

/** Types as a person does. */
export const type = (page, text) => page.keyboard.type(text, { delay: HAND_MS });

/** Types as a scanner does, Enter included. The times are given, since a busy machine would be a slow scanner. */
export async function scan(page, code) {
  const session = await page.context().newCDPSession(page);
  let at = Date.now() / 1000;
  const press = async (key, text, windowsVirtualKeyCode) => {
    const event = { key, windowsVirtualKeyCode };
    await session.send("Input.dispatchKeyEvent", { ...event, type: "keyDown", text, timestamp: at });
    await session.send("Input.dispatchKeyEvent", { ...event, type: "keyUp", timestamp: at + SCANNER_MS / 2000 });
    at += SCANNER_MS / 1000;
  };
  for (const digit of code) await press(digit, digit, digit.charCodeAt(0));
  await press("Enter", "\r", 13);
  await session.detach();
}

/** What a server says, as JSON. */
export async function api(address, path, body, method = body ? "POST" : "GET") {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(`${address}/v1/${path}`, { method, headers, body: body && JSON.stringify(body) });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status}`);
  return answer.json();
}

/** Waits until `look` holds. */
export async function until(what, look) {
  const deadline = Date.now() + 15_000;
  while (!(await look())) {
    assert.ok(Date.now() < deadline, `${what}: not in time`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** What the browser has of a token is not one any more. */
export async function loseToken(page) {
  await page.evaluate(() => localStorage.setItem("shelfstream-token", "shelf_0"));
}

/** Gives a server with tokens the one that it asks for. */
export async function giveToken(page, token) {
  await page.locator("#who[open]").waitFor();
  await page.fill("#token", token);
  await page.keyboard.press("Enter");
}
