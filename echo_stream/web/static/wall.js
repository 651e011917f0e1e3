// The wall: a card a machine, the most urgent first.

import { h, number, percent, when, ago } from "./dom.js";
import { byUrgency, get, state, stream } from "./api.js";
import { enrolAllButton } from "./enrol.js";
import { spark } from "./charts.js";

const CALLING = new Set(["alarm", "not-heard", "no-bank", "sensor-fault", "alarm-over", "warning", "warning-over"]);

export function wall(main) {
  const summary = h("p", { class: "faint", id: "summary", "aria-live": "polite" });
  const list = h("ul", { class: "cards" });
  const learn = h("p", {});
  main.replaceChildren(h("h1", {}, "Machines"), summary, list, learn);
  const cards = new Map();
  let trends = {};

  const draw = (card, machine) =>
    spark(card.spark, trends[machine.id], machine, Date.now() / 1000);

  function update(what) {
    const machines = byUrgency();
    for (const machine of machines) {
      if (!cards.has(machine.id)) cards.set(machine.id, make(machine));
      show(cards.get(machine.id), machine, what);
    }
    if (what === "figures") return;
    for (const [id, card] of cards) {
      if (!state.machines.has(id)) { card.element.remove(); cards.delete(id); }
    }
    const order = machines.map((machine) => cards.get(machine.id).element);
    if (order.some((element, i) => list.children[i] !== element)) list.replaceChildren(...order);
    learn.replaceChildren(enrolAllButton());
    const urgent = machines.filter((machine) => CALLING.has(machine.status));
    summary.textContent = machines.length === 0 ? "no machine yet"
      : urgent.length === 0 ? "nothing needs a look"
      : `${urgent.length} of ${machines.length} ${urgent.length === 1 ? "needs" : "need"} a look`;
    document.title = `${urgent.length ? `(${urgent.length}) ` : ""}echo-stream ${state.me?.node ?? ""}`;
    if (what === "machines") for (const machine of machines) draw(cards.get(machine.id), machine);
  }

  async function refresh() {
    try { trends = (await get("trends")).machines; } catch { return; }
    for (const machine of byUrgency()) if (cards.has(machine.id)) draw(cards.get(machine.id), machine);
  }

  state.listeners.add(update);
  stream(null);
  refresh();
  const timer = setInterval(refresh, 60_000);
  const clock = setInterval(() => { for (const m of byUrgency()) if (cards.has(m.id)) since(cards.get(m.id), m); }, 10_000);
  return () => { state.listeners.delete(update); clearInterval(timer); clearInterval(clock); };
}

function make(machine) {
  const part = (tag, attributes = {}) => h(tag, attributes);
  const card = {
    name: part("h2"), pill: part("span", { class: "pill" }), since: part("span", { class: "faint small" }),
    reason: part("p", { class: "small" }), score: part("b"), trip: part("span", { class: "faint" }),
    level: part("b"), state: part("span", { class: "faint" }), coverage: part("b"),
    spark: h("canvas", { class: "spark", role: "img", "aria-label": "highest scores of the last 24 hours with the levels of warning and alarm" }),
  };
  card.element = h("li", { class: "card", "data-machine": machine.id },
    h("a", { href: `#/machine/${encodeURIComponent(machine.id)}` },
      card.name, h("div", { class: "row" }, card.pill, card.since), card.reason,
      h("div", { class: "numbers" },
        h("span", {}, "score ", card.score, " ", card.trip),
        h("span", {}, card.level, " ", card.state),
        h("span", { title: "share of the last ten minutes that was scored" }, "heard ", card.coverage)),
      card.spark));
  return card;
}

function since(card, machine) {
  card.since.textContent = machine.since ? `since ${when(machine.since)} (${ago(machine.since)})` : "";
}

function show(card, machine, what) {
  card.score.textContent = number(machine.score);
  card.level.textContent = machine.level_dbfs === null ? "" : `${number(machine.level_dbfs)} dBFS`;
  card.coverage.textContent = percent(machine.coverage_10m);
  if (what === "figures") return;
  card.element.dataset.status = machine.status;
  card.name.textContent = machine.name;
  card.pill.textContent = machine.word;
  card.reason.textContent = machine.reason;
  card.reason.hidden = !machine.reason;
  card.trip.textContent = machine.alarm ? `(alarm above ${number(machine.alarm.trip)})` : "";
  card.state.textContent = machine.operating_state && machine.operating_state !== "normal" ? machine.operating_state : "";
  since(card, machine);
}
