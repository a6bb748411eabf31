// Puts the page together.

import * as ask from "./ask.js";
import { announce, bytes, find, html, number } from "./dom.js";
import { Gateway } from "./gateway.js";
import * as jam from "./jam.js";
import { loadArrow } from "./result.js";
import { StashPanel } from "./stash.js";

const REMEMBERED = "gateway-user";

function about({ maxBytes, waitMs, ttlMs, stash }) {
  const name = stash === "cloakroom" ? "stash" : `stash (${stash})`;
  find("about").textContent =
    `Results wait in a ${name} of ${bytes(maxBytes)} for at most ${number(ttlMs / 1_000)} s. ` +
    `Queries wait in the queue for at most ${number(waitMs / 1_000)} s.`;
}

/** On this machine a user can be chosen; behind a proxy the proxy names the user. */
function showUser(gateway, onChange) {
  const { user, userCanBeChosen } = gateway.session;
  if (!userCanBeChosen) {
    const said = user ? ["You are ", html("strong", {}, user)] : ["You are not signed in."];
    find("user").replaceChildren(html("span", {}, ...said));
    return;
  }
  gateway.user = sessionStorage.getItem(REMEMBERED) || "ann";
  const input = html("input", { id: "user-name", value: gateway.user, maxlength: 64, required: true, list: "users", spellcheck: "false" });
  const names = ["ann", "bob", "carol"].map((name) => html("option", { value: name }));
  input.addEventListener("change", () => {
    gateway.user = input.value.trim() || "ann";
    input.value = gateway.user;
    sessionStorage.setItem(REMEMBERED, gateway.user);
    onChange();
  });
  find("user").replaceChildren(html("label", {}, "You are", input), html("datalist", { id: "users" }, ...names));
}

try {
  const gateway = await Gateway.open();
  about(gateway.session);
  const Arrow = await loadArrow(gateway.session.apacheArrow);
  let panel;
  showUser(gateway, () => panel.restart());
  panel = new StashPanel(gateway);
  ask.setUp(gateway, Arrow);
  jam.setUp(gateway, panel, Arrow);
  document.body.dataset.ready = Arrow ? "arrow" : "rows";
} catch (error) {
  find("about").textContent = `The page could not start: ${error.message}`;
  announce(error.message);
}
