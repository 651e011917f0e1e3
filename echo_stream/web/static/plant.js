// The plant: every machine of every PC by what the broker has of it, the most urgent first.

import { h, percent, when, ago } from "./dom.js";
import { byUrgency, state, stream } from "./api.js";
import { buttons } from "./actions.js";

const SHOWN = 100;
const OLD_S = 300;
const known = { plant: null, nodes: new Map() };
const wanted = { word: "", text: "", asset: "" };  // stays while one looks at another page

function listen(update) {
  state.listeners.add(update);
  stream(null, null, {
    plant: (found) => { known.plant = found; update("plant"); },
    nodes: (found) => { for (const each of found) known.nodes.set(each.node, each); update("nodes"); },
    heard: (found) => {
      for (const [id, [coverage, heard]] of Object.entries(found)) {
        const machine = state.machines.get(id);
        if (machine) Object.assign(machine, { coverage_10m: coverage, heard });
      }
      update("heard");
    },
    machines: () => known.nodes.clear(),  // all nodes follow
  });
  return () => state.listeners.delete(update);
}

const old = (text) => !text || Date.now() - new Date(text) > OLD_S * 1000;

const heard = (text) => h("span", { class: old(text) ? "old" : null, title: text ?? "" }, text ? `${ago(text)} ago` : "never");

// Tells whether the broker is there, and since when not.
function brokerLine() {
  const line = h("p", { role: "alert", class: "lost box", id: "broker", hidden: true });
  const note = h("p", { class: "box", hidden: true }, "More machines publish here than are shown. Is the topic root right?");
  return [h("div", {}, line, note), () => {
    const found = known.plant;
    line.hidden = !found || found.connected;
    note.hidden = !found?.too_many;
    if (!line.hidden) {
      line.replaceChildren(`No connection to the broker since ${when(found.since)} (${ago(found.since)}). ` +
        "What you see is what was known then. It is tried again.", h("div", { class: "small faint" }, found.reason));
    }
  }];
}

const place = (machine) => Object.entries(machine.asset).map((pair) => pair.join(" ")).join(", ");

function matches(machine) {
  if (wanted.word && machine.word !== wanted.word) return false;
  if (wanted.asset && !Object.entries(machine.asset).some(([key, value]) => `${key}=${value}` === wanted.asset)) return false;
  const text = `${machine.name} ${machine.id} ${place(machine)} ${machine.reason} ${machine.bank}`.toLowerCase();
  return wanted.text.toLowerCase().split(/\s+/).every((each) => text.includes(each));
}

export function plant(main) {
  const [broker, showBroker] = brokerLine();
  const summary = h("p", { class: "faint", id: "summary", "aria-live": "polite" });
  const words = h("p", { class: "row", role: "group", "aria-label": "only machines of this state" });
  const text = h("input", { type: "search", "aria-label": "find", placeholder: "find a machine, PC or place", value: wanted.text,
    oninput: () => { wanted.text = text.value; shown = SHOWN; show(); } });
  const asset = h("select", { "aria-label": "only machines at this place", onchange: () => { wanted.asset = asset.value; shown = SHOWN; show(); } });
  const body = h("tbody", {});
  const table = h("table", { class: "stack plant" },
    h("thead", {}, h("tr", {}, ["state", "machine", "heard", "coverage", "bank", "version", ""].map((x) => h("th", {}, x)))), body);
  const more = h("button", { onclick: () => { shown += SHOWN; show(); } });
  main.replaceChildren(h("h1", {}, "Machines"), broker, summary, words,
    h("p", { class: "row filter" }, text, asset), h("div", { class: "scroll" }, table), h("p", {}, more));
  const rows = new Map();
  let shown = SHOWN;
  let places = "";
  let late = null;

  // Many messages a second: the table is drawn once for all of a moment.
  function update(what) {
    if (what === "plant") showBroker();
    late ??= setTimeout(() => { late = null; show(); }, what === "heard" ? 1000 : 50);
  }

  function show() {
    const all = byUrgency();
    const found = all.filter(matches);
    const now = found.slice(0, shown);
    for (const machine of now) {
      if (!rows.has(machine.id)) rows.set(machine.id, makeRow(machine));
      fillRow(rows.get(machine.id), machine);
    }
    const order = now.map((machine) => rows.get(machine.id).element);
    if (order.length !== body.children.length || order.some((element, i) => body.children[i] !== element)) body.replaceChildren(...order);
    const visible = new Set(now.map((machine) => machine.id));
    for (const id of rows.keys()) if (!visible.has(id)) rows.delete(id);
    more.hidden = found.length <= shown;
    more.textContent = `${Math.min(SHOWN, found.length - shown)} more of ${found.length - shown}`;
    const nodesHere = new Set(all.map((machine) => machine.node));
    const only = Object.entries(known.plant?.asset ?? {}).map(([key, value]) => `${key} ${value}`).join(", ");
    summary.textContent = (all.length === 0 ? "nothing received yet"
      : `${found.length === all.length ? "" : `${found.length} of `}${counted(all.length, "machine")} on ${counted(nodesHere.size, "PC")}`) + (only ? `; only ${only}` : "");
    showWords(all);
    showPlaces(all);
    const calling = all.filter((machine) => machine.word === "alarm").length;
    document.title = `${calling ? `(${calling}) ` : ""}echo-stream ${state.me?.node ?? ""}`;
  }

  function showWords(all) {
    const counts = new Map();
    for (const machine of all) counts.set(machine.word, { status: machine.status, n: (counts.get(machine.word)?.n ?? 0) + 1 });
    if (wanted.word && !counts.has(wanted.word)) counts.set(wanted.word, { status: "", n: 0 });
    const texts = [...counts].map(([word, { status, n }]) => `${word} ${status} ${n}`).join("|") + wanted.word;
    if (words.dataset.texts === texts) return;
    words.dataset.texts = texts;
    words.replaceChildren(...[...counts].map(([word, { status, n }]) => h("button", { class: "pill choice", "data-status": status,
      "aria-pressed": String(wanted.word === word),
      onclick: () => { wanted.word = wanted.word === word ? "" : word; shown = SHOWN; show(); } }, `${word} ${n}`)));
  }

  function showPlaces(all) {
    const found = [...new Set(all.flatMap((machine) => Object.entries(machine.asset).map((pair) => pair.join("="))))]
      .sort((a, b) => a.localeCompare(b, undefined, { numeric: true })).slice(0, 500);
    if (found.join("|") === places && asset.children.length) return;
    places = found.join("|");
    asset.replaceChildren(h("option", { value: "" }, "all places"),
      ...found.map((each) => h("option", { value: each, selected: each === wanted.asset }, each.replace("=", " "))));
    asset.hidden = found.length === 0;
  }

  const leave = listen(update);
  update("plant");
  const clock = setInterval(() => { showBroker(); show(); }, 10_000);
  return () => { leave(); clearInterval(clock); clearTimeout(late); };
}

function makeRow(machine) {
  const cell = (head = "") => h("td", { "data-head": head });
  const row = { state: cell(), name: cell(), heard: cell("heard"), coverage: cell("coverage"), bank: cell("bank"), version: cell("version"), actions: cell(), texts: "" };
  row.element = h("tr", { "data-machine": machine.id },
    row.state, row.name, row.heard, row.coverage, row.bank, row.version, row.actions);
  return row;
}

function fillRow(row, machine) {
  row.heard.replaceChildren(heard(machine.heard));
  row.coverage.textContent = percent(machine.coverage_10m);
  const texts = JSON.stringify({ ...machine, heard: null, coverage_10m: null });
  if (row.texts === texts) return;  // a button that somebody is about to press stays
  row.texts = texts;
  row.element.dataset.status = machine.status;
  const level = machine.alarm && machine.alarm.state !== "NORMAL" ? machine.alarm : machine.warning;
  const details = [machine.reason, machine.drift_since ? `its sound creeps away since ${when(machine.drift_since)}` : ""].filter(Boolean);
  row.state.replaceChildren(h("span", { class: "pill", "data-status": machine.status }, machine.word),
    level?.since && machine.status !== "normal" ? h("div", { class: "faint small" }, `since ${when(level.since)}`) : "");
  row.name.replaceChildren(h("b", {}, machine.name), h("div", { class: "faint small" }, [machine.id, place(machine)].filter(Boolean).join(", ")),
    ...details.map((each) => h("div", { class: "small" }, each)));
  row.bank.textContent = machine.bank ? `${machine.bank}${machine.bank_proposed ? ` (${machine.bank_proposed} waits)` : ""}` : "–";
  const { "echo-stream": version, ...others } = machine.versions;
  row.version.textContent = version ?? "–";
  row.version.title = Object.entries(others).map((pair) => pair.join(" ")).join(", ");
  row.actions.replaceChildren(buttons(machine));
}

const counted = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

// All PCs, those that need a look first.
export function nodes(main) {
  const [broker, showBroker] = brokerLine();
  const summary = h("p", { class: "faint" });
  const body = h("tbody", {});
  main.replaceChildren(h("h1", {}, "PCs"), broker, summary, h("div", { class: "scroll" }, h("table", { class: "stack" },
    h("thead", {}, h("tr", {}, ["state", "PC", "heard", "waits in its outbox", "what is not as it should be"].map((x) => h("th", {}, x)))), body)));
  let late = null;
  let before = "";

  function show() {
    showBroker();
    const rank = (node) => (!node.online ? 0 : node.reasons.length ? 1 : node.outbox || old(node.heard) ? 2 : 3);
    const all = [...known.nodes.values()].sort((a, b) => rank(a) - rank(b) || a.node.localeCompare(b.node, undefined, { numeric: true }));
    summary.textContent = `${counted(all.length, "PC")}, ${all.filter((node) => !node.online).length} offline`;
    const now = JSON.stringify(all) + Math.round(Date.now() / 10_000);
    if (now === before) return;
    before = now;
    body.replaceChildren(...all.map((node) => h("tr", { "data-node": node.node },
      h("td", {}, h("span", { class: "pill", "data-status": ["not-heard", "degraded", "warning", "normal"][rank(node)] },
        !node.online ? "offline" : node.reasons.length ? "degraded" : old(node.heard) ? "not heard lately" : node.outbox ? "messages wait" : "online")),
      h("td", {}, h("b", {}, node.node)),
      h("td", { "data-head": "heard" }, heard(node.heard)),
      h("td", { "data-head": "waits in its outbox" }, node.outbox === null ? "–" : String(node.outbox) + (node.dropped ? `, ${node.dropped} dropped` : "")),
      h("td", {}, node.reasons.map((each) => h("div", { class: "small" }, each))))));
  }

  const update = () => { late ??= setTimeout(() => { late = null; show(); }, 500); };
  const leave = listen(update);
  const clock = setInterval(show, 10_000);
  show();
  return () => { leave(); clearInterval(clock); clearTimeout(late); };
}
