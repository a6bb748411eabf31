// The live panel of the stash.

import { announce, bytes, find, html, number, seconds, sleep } from "./dom.js";

const EVENTS_SHOWN = 8;
const RECONNECT_MS = 1_000;
/** Longer than a change takes to get here: a shared stash is read each 200 ms, and shown each 100. */
const SETTLE_MS = 600;

const EVENTS = {
  stored: ["stored", ""],
  granted: ["granted", "good"],
  delivered: ["delivered", "good"],
  claimed: ["claimed", ""],
  put_back: ["put back", "wait"],
  expired: ["expired", "wait"],
  cleared: ["cleared", "wait"],
  timed_out: ["timed out", "bad"],
  refused: ["refused", "bad"],
  closed: ["closed", "bad"],
};

/** Follows the stash while the page is visible. */
export class StashPanel {
  constructor(gateway) {
    this.gateway = gateway;
    /** The latest state. */
    this.state = null;
    this.happened = [];
    this.watchers = new Set();
    document.addEventListener("visibilitychange", () => this.restart());
    this.follow();
  }

  /** Follows anew: the user has changed, or the page is visible again. */
  restart() {
    this.abort?.abort();
  }

  async follow() {
    for (;;) {
      if (document.hidden) {
        await new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
        continue;
      }
      this.abort = new AbortController();
      try {
        for await (const state of this.gateway.watch(this.abort.signal)) this.take(state);
      } catch {
        // The badge shows it.
      }
      this.connected(false);
      await sleep(this.abort.signal.aborted ? 0 : RECONNECT_MS);
    }
  }

  /** Resolves with the first state that fulfils `condition`. */
  until(condition, patience = 10_000) {
    return new Promise((done, fail) => {
      const timer = setTimeout(() => {
        this.watchers.delete(check);
        fail(new Error("the stash did not get there in time"));
      }, patience);
      const check = () => {
        if (!this.state || !condition(this.state)) return;
        clearTimeout(timer);
        this.watchers.delete(check);
        done(this.state);
      };
      this.watchers.add(check);
      check();
    });
  }

  /** Resolves with a state that shows all that has happened, once the used bytes stand still. */
  async settled(patience = 10_000) {
    const end = performance.now() + patience;
    for (;;) {
      const { usedBytes } = await this.until(() => true);
      await sleep(SETTLE_MS);
      if (this.state.usedBytes === usedBytes) return this.state;
      if (performance.now() > end) throw new Error("the stash does not stand still");
    }
  }

  connected(is) {
    find("connection").textContent = is ? "live" : "not connected";
    find("connection").classList.toggle("live", is);
  }

  take(state) {
    this.state = state;
    this.connected(true);
    this.showRoom(state);
    this.showQueue(state);
    this.showEvents(state);
    find("stash-note").textContent = state.note ?? "";
    find("stash-note").hidden = !state.note;
    for (const check of [...this.watchers]) check();
  }

  showRoom({ usedBytes, maxBytes, peakBytes, entries, queue, shared, headBytes }) {
    const share = (value) => `${Math.min((100 * value) / maxBytes, 100)}%`;
    find("used").style.width = share(usedBytes);
    const head = (shared ? headBytes : queue[0]?.bytes) ?? 0;
    find("wanted").classList.toggle("shown", head > 0);
    find("wanted").style.left = share(usedBytes);
    find("wanted").style.width = share(head);
    const used = `${bytes(usedBytes)} of ${bytes(maxBytes)}`;
    find("used-text").textContent = used;
    const held = `${number(entries)} ${entries === 1 ? "result" : "results"} held`;
    const free = `${bytes(Math.max(maxBytes - usedBytes, 0))} free`;
    const wanted = head ? `, and the head asks for ${bytes(head)}` : `, peak ${bytes(peakBytes)}`;
    find("free-text").textContent = `${held}, ${free}${wanted}`;
    const meter = find("meter");
    meter.setAttribute("aria-valuemax", maxBytes);
    meter.setAttribute("aria-valuenow", usedBytes);
    meter.setAttribute("aria-valuetext", `${used}, ${held}`);
  }

  showQueue({ queue, waiting, maxBytes, now, shared }) {
    const items = queue.map((waiter, index) => {
      const size = html("span", { class: "size" });
      size.style.width = `${Math.min((100 * waiter.bytes) / maxBytes, 100)}%`;
      return html(
        "li",
        { class: index === 0 && !shared ? "head" : "", "data-bytes": waiter.bytes },
        size,
        html("span", { class: "rank" }, shared ? "here" : index === 0 ? "head" : `${index + 1}`),
        html("span", { class: "grow" }, `asks for ${bytes(waiter.bytes)}${waiter.mine ? ", yours" : ""}`),
        html("time", {}, seconds(Math.max(now - waiter.since, 0))),
      );
    });
    const hidden = waiting - queue.length;
    if (shared && waiting > 0) items.push(html("li", { class: "all" }, `${number(waiting)} waiting, on all gateways`));
    else if (hidden > 0) items.push(html("li", {}, `and ${number(hidden)} more`));
    if (items.length === 0) items.push(html("li", { class: "empty quiet" }, "No query waits."));
    find("queue").replaceChildren(...items);
    this.queueShown = { at: performance.now() - now, queue };
    if (queue.length > 0) this.keepTime();
  }

  /** Lets the waiting times run between two states. */
  keepTime() {
    if (this.timer) return;
    this.timer = setInterval(() => {
      const { at, queue } = this.queueShown;
      const times = find("queue").querySelectorAll("time");
      queue.forEach((waiter, index) => {
        if (times[index]) times[index].textContent = seconds(Math.max(performance.now() - at - waiter.since, 0));
      });
      if (queue.length === 0) {
        clearInterval(this.timer);
        this.timer = undefined;
      }
    }, 100);
  }

  showEvents({ events, missed, totals, closing }) {
    if (missed > 0) this.happened.unshift({ missed });
    for (const event of events) this.happened.unshift(event);
    this.happened.length = Math.min(this.happened.length, EVENTS_SHOWN);
    const items = this.happened.map((event) => this.eventItem(event));
    if (items.length === 0) items.push(html("li", { class: "quiet" }, "No events since this page was opened."));
    find("happened").replaceChildren(...items);
    const granted = events.filter(({ what }) => what === "granted" || what === "expired");
    if (granted.length > 0) {
      announce(granted.map(({ what, bytes: size }) => `${bytes(size)} ${what}`).join(", "));
    }
    const said = totals
      ? [
          ["stored", totals.stored],
          ["delivered", totals.delivered],
          ["expired", totals.expired],
          ["granted after a wait", totals.granted_after_wait],
          ["timed out", totals.timed_out],
        ].map(([what, count]) => `${number(count)} ${what}`)
      : ["this stash keeps no totals"];
    find("totals").textContent = `${closing ? "Shutting down. " : ""}${said.join(" · ")}`;
  }

  eventItem(event) {
    if (event.missed) return html("li", {}, html("time", {}, "…"), `${number(event.missed)} events not shown`);
    const [name, style] = EVENTS[event.what] ?? [event.what, ""];
    const many = event.entries > 1 ? ` in ${number(event.entries)} results` : "";
    const wait = event.waitMs === null ? "" : ` after ${seconds(event.waitMs)}`;
    return html(
      "li",
      { "data-event": event.what },
      html("time", {}, seconds(event.at)),
      html("span", {}, html("span", { class: `name ${style}` }, name), ` ${bytes(event.bytes)}${many}${wait}`),
    );
  }
}
