// What orders add up to, from orders.py.

import { execFileSync } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const script = join(dirname(fileURLToPath(import.meta.url)), "orders.py");

/** Sums as they stand in the JSON: they are far below 2^53. */
export function expected(first, rows) {
  const python = process.env.PYTHON ?? "python3";
  return JSON.parse(execFileSync(python, [script, String(first), String(rows)], { encoding: "utf8" }));
}
