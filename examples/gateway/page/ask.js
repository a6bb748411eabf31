// Asking a query: the form, the event stream, the result.

import { announce, bytes, find, html, number, widthOf } from "./dom.js";
import * as results from "./result.js";

const DEFAULTS = { first: 0, rows: 1000, region: "europe", width: 16, from_day: 0, to_day: 30 };

export function setUp(gateway, Arrow) {
  const { queries } = gateway.session;
  const chosen = () => queries.find((query) => query.key === find("query").value);
  find("query").replaceChildren(...queries.map(({ key }) => html("option", { value: key }, key)));
  const showParameters = () =>
    find("parameters").replaceChildren(...chosen().parameters.map(parameterField));
  find("query").addEventListener("change", showParameters);
  showParameters();
  find("mode").textContent = Arrow
    ? "Arrow streams wait in the stash and are decoded here by apache-arrow."
    : "Without apache-arrow this page shows JSON rows, which are sent with the events and never enter the stash.";
  find("leave").disabled = !Arrow;
  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const asking = new Asking(gateway, Arrow, chosen());
    asking.run(valuesOf(chosen())).catch((error) => asking.fail(error));
  });
}

function parameterField(parameter) {
  const id = `parameter-${parameter.name}`;
  const whole = parameter.type === "integer";
  const input = html("input", {
    id,
    name: parameter.name,
    required: whole,
    type: whole ? "number" : "text",
    ...(whole ? { min: parameter.min, max: parameter.max, step: 1 } : { maxlength: parameter.maxChars }),
    value: DEFAULTS[parameter.name] ?? (whole ? parameter.min : ""),
  });
  return html("label", { for: id }, parameter.name, input);
}

const valuesOf = (query) =>
  Object.fromEntries(
    query.parameters.map(({ name, type }) => {
      const { value } = find(`parameter-${name}`);
      return [name, type === "integer" ? Number(value) : value];
    }),
  );

/** One query that runs. */
class Asking {
  constructor(gateway, Arrow, query) {
    Object.assign(this, { gateway, Arrow, query, began: performance.now(), user: gateway.user });
    find("events").replaceChildren();
    find("run").disabled = true;
  }

  async run(parameters) {
    const format = this.Arrow ? "ARROW_STREAM" : "JSON_ARRAY";
    const onEvent = (event) => this.note(event);
    const { key } = this.query;
    const answer = await this.gateway.ask(key, { format, parameters }, { user: this.user, onEvent });
    find("run").disabled = false;
    if (answer.type === "result") {
      this.show(results.fromRows(answer.rows, answer.columns, this.query.columns));
    } else if (find("leave").checked) {
      this.offer(answer.statementId);
    } else {
      await this.take(answer.statementId);
    }
  }

  async take(id) {
    const stream = await this.gateway.take(id, this.user);
    this.line("fetched", "good", `${bytes(stream.length)}; the ticket is spent`);
    this.show(results.fromArrow(this.Arrow, stream, this.query.columns));
  }

  /** Leaves the result in the stash until it is fetched or expires. */
  offer(id) {
    const button = html("button", { type: "button", class: "small" }, "Fetch it");
    button.addEventListener("click", () => {
      button.disabled = true;
      this.take(id).catch((error) => this.fail(error));
    });
    const seconds = number(this.gateway.session.ttlMs / 1_000);
    this.line("waiting", "wait", `for at most ${seconds} s `, button);
  }

  note({ name, data }) {
    if (name === "warehouse_status") {
      const waits = data.state === "PENDING";
      this.line(name, waits ? "wait" : "", waits ? "PENDING: waits in the queue of the stash" : data.state);
    } else if (name === "result") {
      this.line(name, "good", `${number(data.rows.length)} rows of JSON`);
    } else if (name === "arrow") {
      this.line(name, "good", html("code", {}, data.statementId), ` ${data.disposition}`);
    } else if (name === "error") {
      this.line(name, "bad", html("code", {}, data.error.code), ` ${data.error.message}`);
    } else {
      this.line(name, "", JSON.stringify(data));
    }
  }

  line(name, style, ...what) {
    const after = `${number(Math.round(performance.now() - this.began))} ms`;
    const said = html("span", {}, html("span", { class: `name ${style}` }, name), " ", ...what);
    find("events").append(html("li", {}, html("time", {}, after), said));
  }

  show(result) {
    const body = find("result-body");
    body.replaceChildren(...results.table(result), ...results.chart(result, widthOf(body)));
    const sums = [...result.sums()].map(([name, sum]) => `${name} ${number(sum)}`).join(", ");
    announce(`${number(result.length)} rows. Sums: ${sums || "none"}.`);
  }

  fail(error) {
    find("run").disabled = false;
    // A refusal inside the stream has been shown already.
    if (!find("events").querySelector(".bad")) this.line("refused", "bad", error.message);
    announce(error.message);
  }
}
