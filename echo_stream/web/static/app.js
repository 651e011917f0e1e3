// The page: finds out who looks, then shows what the address behind # names.

import { h, say } from "./dom.js";
import { closeStream, get, post, state } from "./api.js";
import { wall } from "./wall.js";
import { machine } from "./machine.js";
import { alarms } from "./alarms.js";
import { evidence, recordings } from "./evidence.js";
import { health } from "./health.js";
import { nodes, plant } from "./plant.js";

const main = document.getElementById("main");
let leave = () => {};

const ROUTES = [
  [/^$/, wall], [/^machine\/(.+)$/, machine], [/^alarms$/, alarms], [/^evidence$/, recordings],
  [/^evidence\/([0-9A-Z]{26})$/, evidence], [/^health$/, health],
];

const PLANT_ROUTES = [[/^$/, plant], [/^nodes$/, nodes]];

function route() {
  if (!state.me || state.me.role === "nobody") return;
  const path = location.hash.replace(/^#\/?/, "");
  leave();
  leave = () => {};
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.getAttribute("href") === `#/${path.split("/")[0]}`;
    here ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  }
  for (const [pattern, show] of state.me.plant ? PLANT_ROUTES : ROUTES) {
    const found = pattern.exec(path);
    if (found) {
      document.title = "echo-stream";
      leave = show(main, ...found.slice(1).map(decodeURIComponent));
      window.scrollTo(0, 0);
      return;
    }
  }
  main.replaceChildren(h("p", {}, "There is no such page. ", h("a", { href: "#/" }, "All machines")));
}

function login() {
  leave();
  leave = () => {};
  closeStream();
  const name = h("input", { name: "username", autocomplete: "username", required: true });
  const password = h("input", { name: "password", type: "password", autocomplete: "current-password", required: true });
  main.replaceChildren(h("form", { class: "box", onsubmit: async (event) => {
    event.preventDefault();
    const outcome = await post("login", { name: name.value, password: password.value });
    if (outcome.ok) start();
    else say(outcome.outcome, true);
  } }, h("h1", {}, "Log in"), h("label", {}, "Name", name), h("label", {}, "Password", password),
  h("button", { class: "main" }, "Log in")));
  name.focus();
}

async function start() {
  try {
    state.me = await get("me");
  } catch {
    main.replaceChildren(h("p", {}, "Nothing answers here. This page tries again."));
    setTimeout(start, 3000);
    return;
  }
  document.getElementById("node").textContent = state.me.node;
  if (state.me.plant) {
    document.querySelector("nav").replaceChildren(h("a", { href: "#/" }, "Machines"), h("a", { href: "#/nodes" }, "PCs"));
  }
  const who = document.getElementById("who");
  who.replaceChildren();
  if (state.me.name) {
    who.append(`${state.me.name} (${state.me.role}) `, h("button", { onclick: async () => { await post("logout", {}); start(); } }, "Log out"));
  }
  state.me.role === "nobody" ? login() : route();
}

window.addEventListener("hashchange", route);
window.addEventListener("login-needed", login);
start();
