// Chromium uses the page: a query, its sums and chart, the jam, expiry, a proxy, JSON rows, a keyboard, a phone.
//
// node browser.mjs CHROMIUM ARROW_URL ROWS_URL [SCREENSHOTS [SHARED_URL]]: a gateway started with --small --ttl-secs 15
// and apache-arrow, one without apache-arrow, a folder for pictures (or ""), and one with apache-arrow on a shared stash.

import assert from "node:assert/strict";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { expected } from "./expected.mjs";

const [executablePath, arrowUrl, rowsUrl, screenshots, sharedUrl] = process.argv.slice(2);
const ARGUMENTS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

// Playwright starts it with a new and empty folder of its own.
const browser = await chromium.launch({ executablePath, args: ARGUMENTS });
const problems = [];

async function open(url, { scheme = "light", width = 1280, height = 900, headers } = {}) {
  const context = await browser.newContext({
    colorScheme: scheme,
    viewport: { width, height },
    extraHTTPHeaders: headers,
  });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => {
    // A refusal that a step asks for is no problem of the page.
    if (message.type() === "error" && !/status of 4\d\d/.test(message.text())) problems.push(message.text());
  });
  await page.goto(url);
  await page.waitForSelector("body[data-ready]");
  await page.waitForSelector("#connection.live");
  return page;
}

async function picture(page, name) {
  if (!screenshots) return;
  // Transitions end.
  await page.waitForTimeout(400);
  await page.screenshot({ path: join(screenshots, `${name}.png`), fullPage: true });
}

const digits = (text) => Number(text.replaceAll(",", ""));

/** What the page shows for `rows` orders from `first` on must be what they add up to. */
async function checkOrders(page, first, rows) {
  await page.waitForSelector(`#result table[data-rows="${rows}"]`);
  const truth = expected(first, rows);
  for (const name of ["quantity", "amount_cents"]) {
    assert.equal(digits(await page.textContent(`#result [data-sum="${name}"]`)), truth[name], name);
  }
  const chart = await page.getAttribute("#result svg", "aria-label");
  for (const [region, amount] of Object.entries(truth.by_region)) {
    if (amount > 0) assert.ok(chart.includes(`${region} ${amount.toLocaleString("en")}`), `${region}: ${chart}`);
  }
}

async function askOrders(page, first, rows) {
  await page.fill("#parameter-first", String(first));
  await page.fill("#parameter-rows", String(rows));
  await page.click("#run");
  await checkOrders(page, first, rows);
}

const eventNames = (page) => page.locator("#events .name").allTextContents();

async function checkQuery(page) {
  assert.equal(await page.getAttribute("body", "data-ready"), "arrow");
  await askOrders(page, 250, 4_000);
  assert.deepEqual(await eventNames(page), ["warehouse_status", "arrow", "fetched"]);
  await page.waitForSelector('#happened [data-event="delivered"]');
  await page.selectOption("#query", "revenue_by_region");
  await page.fill("#parameter-to_day", "9");
  await page.click("#run");
  await page.waitForSelector('#result table[data-rows="5"]');
  const sum = digits(await page.textContent('#result [data-sum="amount_cents"]'));
  assert.equal(sum, expected(0, 5_000).amount_cents);
  await page.selectOption("#query", "orders");
  console.log("browser: the sums and the chart agree");
}

/** With the keyboard alone: to the form by the first link, through it, and off. */
async function checkKeyboard(page) {
  await page.focus(".skip");
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.className);
  const seen = [];
  for (let step = 0; step < 30 && !seen.includes("jam-run"); step++) {
    await page.keyboard.press("Tab");
    seen.push(await focused());
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.notEqual(outline, "none", `no focus to be seen on ${seen.at(-1)}`);
  }
  for (const id of ["user-name", "query", "parameter-first", "parameter-rows", "run", "leave", "jam-run"]) {
    assert.ok(seen.includes(id), `${id} is not reached: ${seen}`);
  }
  await page.focus("#parameter-rows");
  await page.keyboard.press("Control+A");
  await page.keyboard.type("30");
  await page.keyboard.press("Enter");
  await checkOrders(page, 0, 30);
  console.log("browser: the keyboard is enough");
}

/** Leaves a result in the stash, where it expires while other things are tried. */
async function leave(page) {
  await page.check("#leave");
  await page.fill("#parameter-rows", "700");
  await page.click("#run");
  await page.waitForSelector("#events button");
  await page.waitForFunction(() => document.querySelector("#used-text").textContent !== "0 bytes of 4 MiB");
}

async function checkExpired(page) {
  await page.waitForSelector('#happened [data-event="expired"]');
  await page.waitForFunction(() => /\b1 expired/.test(document.querySelector("#totals").textContent));
  await page.click("#events button");
  await page.waitForSelector("#events .bad");
  assert.match(await page.textContent("#events .bad >> xpath=.."), /RESULT_GONE/);
  console.log("browser: what is not fetched expires, and is gone");
}

async function checkJam(page) {
  await page.click("#jam-run");
  await page.waitForFunction(() => document.querySelectorAll("#queue [data-bytes]").length === 2);
  const queue = await page.locator("#queue [data-bytes]").evaluateAll((items) =>
    items.map((item) => Number(item.dataset.bytes)),
  );
  assert.ok(queue[0] > 2 * queue[1], `the large one is the head: ${queue}`);
  const meter = await page.locator("#meter").evaluate(({ ariaValueNow, ariaValueMax }) => [ariaValueNow, ariaValueMax]);
  const free = Number(meter[1]) - Number(meter[0]);
  assert.ok(free > queue[1], `the small one would fit: ${free} bytes are free, it asks for ${queue[1]}`);
  await page.waitForTimeout(1_500);
  assert.equal(await page.locator("#queue [data-bytes]").count(), 2, "nobody is served while the stash is full");
  await picture(page, "jammed");

  await page.waitForSelector("#jam-run:not(:disabled)");
  const log = await page.textContent("#jam-log");
  assert.match(log, /Served: large, then small\.$/);
  assert.ok(log.indexOf("large: served") < log.indexOf("small: served"), log);
  for (const name of ["large", "small"]) {
    const { rows, amount } = await page.locator(`[data-jam="${name}"]`).evaluate(({ dataset }) => ({ ...dataset }));
    assert.equal(Number(amount), expected(0, Number(rows)).amount_cents, name);
  }
  await page.waitForFunction(() => document.querySelectorAll("#queue [data-bytes]").length === 0);
  await picture(page, "jam-over");
  console.log("browser: first come, first served; the sums agree");
}

async function checkProxy() {
  const page = await open(arrowUrl, { headers: { "x-forwarded-user": "dora" } });
  assert.match(await page.textContent("#user"), /You are dora/);
  assert.equal(await page.locator("#user input").count(), 0, "a user can be chosen behind a proxy");
  assert.ok(await page.isDisabled("#jam-run"));
  await askOrders(page, 0, 10);
  await page.context().close();
  console.log("browser: behind a proxy the proxy says who it is");
}

async function checkRows() {
  const page = await open(rowsUrl);
  assert.equal(await page.getAttribute("body", "data-ready"), "rows");
  assert.match(await page.textContent("#mode"), /JSON rows/);
  await askOrders(page, 40, 3_000);
  assert.deepEqual(await eventNames(page), ["warehouse_status", "result"]);
  assert.match(await page.textContent("#jam-note"), /--small/);
  assert.ok(await page.isDisabled("#jam-run"));
  await page.context().close();
  console.log("browser: without apache-arrow the page works on JSON rows");
}

async function checkPhoneAndDark() {
  for (const [name, options] of [
    ["dark", { scheme: "dark" }],
    ["phone", { width: 360, height: 740 }],
    ["phone-dark", { width: 360, height: 740, scheme: "dark" }],
  ]) {
    const page = await open(arrowUrl, options);
    await askOrders(page, 0, 1_000);
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= (options.width ?? 1_280), `${name}: the page is ${width} pixels wide`);
    const light = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const [red] = light.match(/\d+/g).map(Number);
    assert.equal(red < 128, options.scheme === "dark", `${name}: ${light}`);
    await picture(page, name);
    await page.context().close();
  }
  console.log("browser: dark, light, and 360 pixels wide");
}

/** A second viewer on another gateway would see the same numbers; the queries are listed where they wait. */
async function checkShared() {
  for (const [name, options] of [
    ["shared", {}],
    ["shared-phone-dark", { width: 360, height: 740, scheme: "dark" }],
  ]) {
    const page = await open(sharedUrl, options);
    await askOrders(page, 0, 1_000);
    await page.click("#jam-run");
    await page.waitForFunction(() => document.querySelectorAll("#queue [data-bytes]").length === 2);
    await page.waitForFunction(() => /2 waiting, on all gateways/.test(document.querySelector("#queue").textContent));
    assert.match(await page.textContent("#free-text"), /the head asks for [1-9]/);
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= (options.width ?? 1_280), `${name}: the page is ${width} pixels wide`);
    await picture(page, name);
    await page.waitForSelector("#jam-run:not(:disabled)");
    const log = await page.textContent("#jam-log");
    assert.doesNotMatch(log, /asks for 0 bytes/);
    assert.match(log, /Served: large, then small\.$/);
    await page.context().close();
  }
  console.log("browser: a shared stash shows its head and the queries that wait here");
}

const page = await open(arrowUrl);
await checkQuery(page);
await checkKeyboard(page);
await picture(page, "light");
await checkJam(page);
await leave(page);
await checkProxy();
await checkRows();
await checkPhoneAndDark();
await checkExpired(page);
if (sharedUrl) await checkShared();
assert.deepEqual(problems, [], "the console of the page");
await browser.close();
