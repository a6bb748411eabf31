// Node reads results with apache-arrow; HEAD, ranges and aborted downloads take nothing.
//
// node node.mjs http://127.0.0.1:PORT: a gateway with a large stash and 50,000 orders.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { RecordBatchReader } from "apache-arrow";
import { expected } from "./expected.mjs";

const base = process.argv[2].replace(/\/$/, "");
const LARGE = { first: 0, rows: 50_000, width: 400 };

const result = (id, options = {}, user = "ann") =>
  fetch(`${base}/api/analytics/arrow-result/${id}`, {
    ...options,
    headers: { "x-forwarded-user": user, ...options.headers },
  });

/** The data of the last event. */
async function ask(key, parameters) {
  const response = await fetch(`${base}/api/analytics/query/${key}`, {
    method: "POST",
    headers: { "x-forwarded-user": "ann", "content-type": "application/json" },
    body: JSON.stringify({ format: "ARROW_STREAM", parameters }),
  });
  assert.equal(response.status, 200);
  const data = (await response.text()).split("\n").filter((line) => line.startsWith("data:"));
  const last = JSON.parse(data.at(-1).slice(5));
  assert.equal(last.disposition, "INLINE", JSON.stringify(last));
  return last.statementId;
}

async function metric(name) {
  const page = await (await fetch(`${base}/metrics`)).text();
  const line = page.split("\n").find((line) => line.startsWith(`${name} `));
  assert.ok(line, `there is no metric ${name}`);
  return Number(line.split(" ")[1]);
}

/** Reads a stream batch by batch, as it arrives. */
async function sumsOf(response) {
  const sums = { rows: 0, quantity: 0n, amount_cents: 0n };
  const reader = await RecordBatchReader.from(response);
  for await (const batch of reader) {
    sums.rows += batch.numRows;
    for (const name of ["quantity", "amount_cents"]) {
      for (const value of batch.getChild(name)) sums[name] += value;
    }
  }
  return { rows: sums.rows, quantity: Number(sums.quantity), amount_cents: Number(sums.amount_cents) };
}

const pick = ({ rows, quantity, amount_cents }) => ({ rows, quantity, amount_cents });

async function checkSums() {
  const id = await ask("orders", { first: 1_000, rows: 20_000 });
  assert.deepEqual(await sumsOf(await result(id)), pick(expected(1_000, 20_000)));
  assert.equal((await result(id)).status, 410);
  console.log("node: the sums agree, and the result is handed out once");
}

async function checkHeadAndRanges() {
  const id = await ask("orders", { first: 0, rows: 2_000 });
  const heads = [];
  for (let look = 0; look < 3; look++) heads.push(await result(id, { method: "HEAD" }));
  assert.equal((await result(id, { method: "HEAD" }, "bob")).status, 410);
  const part = await result(id, { headers: { range: "bytes=0-99" } });
  assert.equal(part.status, 200);
  assert.equal(part.headers.get("accept-ranges"), "none");
  for (const head of heads) {
    assert.equal(head.status, 200);
    assert.equal(head.headers.get("content-length"), part.headers.get("content-length"));
  }
  assert.deepEqual(await sumsOf(part), pick(expected(0, 2_000)));
  assert.equal((await result(id, { method: "HEAD" })).status, 410);
  console.log("node: HEAD takes nothing, and a range gets the whole result");
}

/** The whole result, once the gateway has noticed that the download before broke off. */
async function whole(id) {
  for (let attempt = 0; attempt < 20; attempt++) {
    const response = await result(id);
    if (response.status !== 409) return response;
    await sleep(1_000 * Number(response.headers.get("retry-after")));
  }
  throw new Error("it stays busy");
}

async function checkAborts() {
  const id = await ask("order_labels", LARGE);
  const size = Number((await result(id, { method: "HEAD" })).headers.get("content-length"));
  const before = await metric('cloakroom_claims_total{outcome="put_back"}');
  for (let abort = 1; abort <= 3; abort++) {
    const controller = new AbortController();
    const response = await result(id, { signal: controller.signal });
    assert.equal(response.status, 200);
    const reader = response.body.getReader();
    const { value } = await reader.read();
    assert.ok(value.length < size);
    controller.abort();
    await assert.rejects(reader.read(), { name: "AbortError" });
    for (let look = 0; (await metric('cloakroom_claims_total{outcome="put_back"}')) < before + abort; look++) {
      assert.ok(look < 500, "the aborted download is not put back");
      await sleep(20);
    }
  }
  const body = await (await whole(id)).arrayBuffer();
  assert.equal(body.byteLength, size);
  assert.equal((await result(id)).status, 410);
  console.log("node: an aborted download can be repeated, whole");
}

await checkSums();
await checkHeadAndRanges();
await checkAborts();
