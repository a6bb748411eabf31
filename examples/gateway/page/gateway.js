// The gateway's interface: users, queries, results, event streams.

/** A refusal, in a response or in an event stream. */
export class Refusal extends Error {
  constructor(error) {
    super(`${error.code}: ${error.message}`);
    this.code = error.code;
  }
}

export class Gateway {
  constructor(session) {
    this.session = session;
    this.user = session.user ?? "";
  }

  static async open() {
    const response = await fetch("/page/session.json");
    if (!response.ok) throw new Error(`the gateway answers ${response.status}`);
    return new Gateway(await response.json());
  }

  /** The header that names `user`. Behind a proxy the proxy names them, and the page must not. */
  headersOf(user) {
    return this.session.userCanBeChosen && user ? { [this.session.userHeader]: user } : {};
  }

  /**
   * Asks a query and calls `onEvent` for each event of the answer. Returns the last one, or throws what was
   * refused.
   */
  async ask(key, request, { user = this.user, onEvent = () => {} } = {}) {
    const response = await fetch(`/api/analytics/query/${encodeURIComponent(key)}`, {
      method: "POST",
      headers: { "content-type": "application/json", ...this.headersOf(user) },
      body: JSON.stringify(request),
    });
    await check(response);
    let last;
    for await (const event of events(response)) {
      onEvent(event);
      last = event;
    }
    if (!last) throw new Error("the event stream broke off");
    if (last.name === "error") throw new Refusal(last.data.error);
    return last.data;
  }

  /** Takes a result: its bytes. */
  async take(id, user = this.user) {
    const response = await fetch(`/api/analytics/arrow-result/${encodeURIComponent(id)}`, {
      headers: this.headersOf(user),
    });
    await check(response);
    return new Uint8Array(await response.arrayBuffer());
  }

  /** How many bytes a result has, without taking it. */
  async sizeOf(id, user = this.user) {
    const response = await fetch(`/api/analytics/arrow-result/${encodeURIComponent(id)}`, {
      method: "HEAD",
      headers: this.headersOf(user),
    });
    if (!response.ok) throw new Error(`the result cannot be seen: ${response.status}`);
    return Number(response.headers.get("content-length"));
  }

  /** The states of the stash, until the gateway or `signal` ends it. */
  async *watch(signal) {
    const response = await fetch("/stash/events", { headers: this.headersOf(this.user), signal });
    await check(response);
    for await (const event of events(response)) yield event.data;
  }
}

async function check(response) {
  if (response.ok) return;
  const body = await response.json().catch(() => null);
  if (body?.error) throw new Refusal(body.error);
  throw new Error(`the gateway answers ${response.status}`);
}

/** The events of a response, with their data parsed. An EventSource could not send the user's header. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const event = parse(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  let name = "message";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    if (line.startsWith("data:")) data += line.slice(5);
  }
  // A comment only shows that the stream is alive.
  return data ? { name, data: JSON.parse(data) } : undefined;
}
