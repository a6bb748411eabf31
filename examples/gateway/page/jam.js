// The jam: the stash is filled, a large result is asked for, then a small one that would fit.

import { announce, bytes, find, html, number, seconds, sleep, svg, widthOf } from "./dom.js";
import { fromArrow } from "./result.js";

// Shares of the stash. The free rest is less than the large one asks for and more than the small one:
// so the small one would fit, and does not pass.
const FIRST_HOLDER = 0.15;
const HOLDER = 0.2;
const FREE = 0.08;
const LARGE = 0.19;
const SMALL = 0.06;
/** How long the jam lasts. */
const HOLD_MS = 4_000;
/** Between the large one's answer and its download, so that the head can be seen. */
const PAUSE_MS = 1_000;
const MOST_HOLDERS = 12;
const MOST_ROWS = 90_000;
/** About; the first holder's result gives the exact size. */
const BYTES_PER_ORDER = 64;

/** Why this gateway cannot be jammed from a page, if it cannot. */
function obstacle({ userCanBeChosen, maxBytes, waitMs, ttlMs, orders }) {
  if (!userCanBeChosen) return "A jam takes several users, and here the proxy names the user.";
  if (maxBytes > 32e6 || maxBytes < 400_000 || waitMs < 8_000 || ttlMs < 15_000 || orders < 50_000) {
    return "With these settings there would be nothing to watch. Start the gateway with: serve --small";
  }
  return "";
}

export function setUp(gateway, panel, Arrow) {
  const button = find("jam-run");
  const why = obstacle(gateway.session);
  find("jam-note").textContent = why || `Lasts about ${(HOLD_MS + PAUSE_MS) / 1_000 + 2} seconds.`;
  button.disabled = Boolean(why);
  button.addEventListener("click", async () => {
    button.disabled = true;
    const jam = new Jam(gateway, panel, Arrow);
    try {
      await jam.run();
    } catch (error) {
      jam.log("bad", `The jam failed: ${error.message}`);
    } finally {
      await jam.release().catch((error) => jam.log("bad", error.message));
      jam.lanes.stop();
      button.disabled = false;
    }
  });
}

class Jam {
  constructor(gateway, panel, Arrow) {
    Object.assign(this, { gateway, panel, Arrow });
    /** Users of its own, so that the limit of the user at the page does not interfere. */
    this.name = `jam-${Math.random().toString(36).slice(2, 8)}`;
    this.bytesPerOrder = BYTES_PER_ORDER;
    this.holders = [];
    /** The large one and the small one, until their results are taken. */
    this.asked = [];
    this.began = performance.now();
    this.lanes = new Lanes(this.began);
    find("jam-log").replaceChildren();
  }

  async run() {
    await this.fill();
    const { maxBytes, usedBytes } = this.panel.state;
    this.log("", `The stash is full but for ${bytes(maxBytes - usedBytes)}.`);
    const large = await this.join("large", LARGE);
    const small = await this.join("small", SMALL);
    this.log("", "The small one would fit. It does not overtake.");
    await sleep(HOLD_MS);
    this.log("", "A client that fills the stash fetches its result.");
    await this.fetchHolder();
    await large.served;
    await sleep(PAUSE_MS);
    await this.fetch(large);
    await small.served;
    await this.fetch(small);
    const inOrder = large.servedAt < small.servedAt;
    this.log(inOrder ? "good" : "bad", `Served: ${inOrder ? "large, then small" : "small, then large"}.`);
    announce(`Served: ${inOrder ? "the large one, then the small one" : "out of order"}.`);
  }

  rows(share) {
    const rows = Math.floor((share * this.panel.state.maxBytes) / this.bytesPerOrder);
    return Math.min(Math.max(rows, 1), MOST_ROWS, this.gateway.session.orders);
  }

  request(rows) {
    return { format: "ARROW_STREAM", parameters: { first: 0, rows } };
  }

  /** Others may put and take meanwhile: what the stash shows in the end decides whether there is more to fill. */
  async fill() {
    while (await this.fillOnce()) {
      if (this.holders.length >= MOST_HOLDERS) throw new Error("others empty the stash faster");
    }
  }

  /** Puts what fills the stash, by what it shows now. Returns whether anything was put. */
  async fillOnce() {
    const { maxBytes, usedBytes } = await this.panel.settled();
    let used = usedBytes;
    const before = this.holders.length;
    while (this.holders.length < MOST_HOLDERS) {
      const free = 1 - used / maxBytes - FREE;
      if (free < 0.01) break;
      const user = `${this.name}-${this.holders.length + 1}`;
      const rows = this.rows(Math.min(this.holders.length === 0 ? FIRST_HOLDER : HOLDER, free));
      const answer = await this.gateway.ask("orders", this.request(rows), { user });
      if (answer.disposition !== "INLINE") throw new Error("a result went out by link");
      this.holders.push({ id: answer.statementId, user });
      if (this.holders.length === 1) {
        this.bytesPerOrder = (await this.gateway.sizeOf(answer.statementId, user)) / rows;
      }
      used += rows * this.bytesPerOrder;
    }
    return this.holders.length > before;
  }

  /** Asks, and returns when the query waits. */
  async join(name, share) {
    const one = { name, user: `${this.name}-${name}`, askedAt: performance.now() };
    const before = this.panel.state;
    one.served = this.gateway.ask("orders", this.request(this.rows(share)), { user: one.user }).then((answer) => {
      one.id = answer.statementId;
      one.servedAt = performance.now();
      this.lanes.served(one);
      this.log("good", `${name}: served after ${seconds(one.servedAt - one.askedAt)}.`);
    });
    // A refusal is reported where the promise is awaited.
    one.served.catch(() => {});
    this.asked.push(one);
    const refused = one.served.then(() => Promise.reject(new Error(`the ${name} one did not have to wait`)));
    // A query waits in a shared stash before it is listed here.
    const waits = ({ waiting, queue }) => waiting > before.waiting && queue.length > before.queue.length;
    const state = await Promise.race([this.panel.until(waits), refused]);
    refused.catch(() => {});
    this.lanes.joined(one);
    this.log("wait", `${name}: asks for ${bytes(state.queue.at(-1).bytes)} and waits.`);
    return one;
  }

  async fetch(one) {
    this.asked = this.asked.filter((other) => other !== one);
    const stream = await this.gateway.take(one.id, one.user);
    let what = bytes(stream.length);
    const data = { "data-jam": one.name };
    if (this.Arrow) {
      const { columns } = this.gateway.session.queries.find(({ key }) => key === "orders");
      const result = fromArrow(this.Arrow, stream, columns);
      const sum = result.sums().get("amount_cents");
      what += `, ${number(result.length)} rows, amount_cents ${number(sum)}`;
      Object.assign(data, { "data-rows": result.length, "data-amount": sum });
    }
    this.log("", `${one.name}: fetched, ${what}.`, data);
  }

  async fetchHolder() {
    const { id, user } = this.holders.shift();
    await this.gateway.take(id, user);
  }

  async release() {
    while (this.holders.length > 0) await this.fetchHolder();
    // Only a jam that was interrupted leaves any.
    await Promise.allSettled(this.asked.map((one) => one.served.then(() => this.fetch(one))));
  }

  log(style, text, data = {}) {
    const after = seconds(performance.now() - this.began);
    const said = html("span", { class: style }, text);
    find("jam-log").append(html("li", data, html("time", {}, after), said));
  }
}

/** A lane for each of the two, from asking to being served. */
class Lanes {
  constructor(began) {
    this.began = began;
    this.ones = [];
    this.timer = setInterval(() => this.draw(), 100);
    find("jam-lanes").replaceChildren();
  }

  joined(one) {
    this.ones.push(one);
    this.draw();
  }

  served() {
    this.draw();
  }

  stop() {
    clearInterval(this.timer);
    this.draw();
  }

  draw() {
    if (this.ones.length === 0) return;
    const width = widthOf(find("jam-lanes"));
    const [left, row] = [52, 30];
    const now = performance.now();
    const from = this.ones[0].askedAt;
    const span = Math.max(now - from, HOLD_MS + PAUSE_MS + 500);
    const end = this.ones.every((one) => one.servedAt) ? Math.max(...this.ones.map((one) => one.servedAt)) : now;
    const x = (at) => left + ((Math.min(at, end) - from) / span) * (width - left - 96);
    const lanes = this.ones.flatMap((one, index) => {
      const y = index * row;
      const until = one.servedAt ?? now;
      const state = one.servedAt ? `served, ${seconds(until - one.askedAt)}` : "waits";
      return [
        svg("text", { x: left - 8, y: y + 19, "text-anchor": "end", class: "label" }, one.name),
        svg("rect", { x: x(one.askedAt), y: y + 5, width: Math.max(x(until) - x(one.askedAt), 2), height: row - 10, rx: 4, class: "waiting" }),
        ...(one.servedAt ? [svg("circle", { cx: x(until), cy: y + row / 2, r: 6, class: "served" })] : []),
        svg("text", { x: x(until) + 12, y: y + 19 }, state),
      ];
    });
    const said = this.ones.map((one) => `${one.name} ${one.servedAt ? "served" : "waits"}`).join(", ");
    const picture = svg("svg", { viewBox: `0 0 ${width} ${2 * row}`, role: "img", "aria-label": said }, ...lanes);
    find("jam-lanes").replaceChildren(picture);
  }
}
