// Alarms that stand, with what can be done about them; and the journal of what happened.

import { h, number, when } from "./dom.js";
import { byUrgency, get, state, stream } from "./api.js";
import { buttons } from "./actions.js";

const CAUSES = {
  condition: "the sound became strange", clear: "the sound is normal again", ack: "acknowledged", reset: "reset",
  shelve: "shelved", unshelve: "taken off the shelf", shelve_expired: "the shelving has ended",
  out_of_service: "taken out of service", in_service: "back in service", suppress: "held back: sensor fault or machine off",
  unsuppress: "watched again", realarm: "announced again", changed_again: "the sound has changed again",
  new_steady_state: "the changed sound stays",
};

export function describe({ kind, event }) {
  if (kind === "event") {
    const parts = [`${event.level}: ${CAUSES[event.cause] ?? event.cause}`];
    if (event.why) parts.push(event.why);
    if (event.reason) parts.push(event.reason);
    if (event.cause === "condition") parts.push(`score ${number(event.score)}, level ${number(event.threshold)}`);
    return parts.join("; ");
  }
  if (kind === "sensor") return event.to ? `sensor fault: ${event.to}` : "the sensor is well again";
  if (kind === "drift") return event.active ? "the sound creeps away from what it was" : "the sound no longer creeps away";
  if (kind === "flood") return event.active ? "many alarms at once: warnings are announced as one" : "the flood of alarms is over";
  if (kind === "evidence") return "the recording is complete";
  if (kind === "answer") {
    const said = { fault: "it was a fault", normal: "it was normal: learn it", propose: "learn what was heard", accept: "another bank is in use", rollback: "the bank before is in use again" };
    return [said[event.answer] ?? event.answer, `by ${event.by}`, event.reason].filter(Boolean).join("; ");
  }
  if (kind === "enrolment") {
    const said = { start: `learning begins: ${event.conditions.join(" and ")}`, pause: "learning is paused", resume: "learning goes on",
      finish: "learning: what was heard is enough", heard: "learning: all was heard", cancel: "learning is discarded",
      done: "learnt", failed: "nothing was learnt" };
    return [said[event.enrolment] ?? event.enrolment, event.by ? `by ${event.by}` : "", event.reason].filter(Boolean).join("; ");
  }
  return kind;
}

export function journalTable(items, withMachine = true) {
  if (!items.length) return h("p", { class: "faint" }, "nothing yet");
  const cell = (head, ...content) => h("td", { "data-head": head }, ...content);
  const name = (id) => state.machines.get(id)?.name ?? id ?? "";
  return h("div", { class: "scroll" }, h("table", { class: "stack" },
    h("thead", {}, h("tr", {}, ["when", withMachine ? "machine" : null, "what", ""].filter((x) => x !== null).map((x) => h("th", {}, x)))),
    h("tbody", {}, items.map((item) => h("tr", {},
      cell("", when(item.event.ts)),
      withMachine ? cell("", h("a", { href: `#/machine/${encodeURIComponent(item.event.machine ?? "")}` }, name(item.event.machine))) : null,
      cell("", describe(item)),
      cell("", item.kind === "evidence" || item.event.evidence?.clip
        ? h("a", { href: `#/evidence/${item.event.event_id}` }, "hear it") : "")))))); 
}

export function alarms(main) {
  const standing = h("div", {});
  const journal = h("div", {});
  const more = h("button", { onclick: () => load(true) }, "older");
  let items = [];
  main.replaceChildren(h("h1", {}, "Alarms"), standing, h("h2", {}, "Journal"), journal, more);

  function update(what) {
    if (what === "figures") return;
    const found = byUrgency().filter((machine) => !["normal", "off"].includes(machine.status));
    standing.replaceChildren(found.length
      ? h("div", { class: "scroll" }, h("table", { class: "stack" },
        h("thead", {}, h("tr", {}, ["state", "machine", "since", "score", ""].map((x) => h("th", {}, x)))),
        h("tbody", {}, found.map((machine) => h("tr", { "data-machine": machine.id },
          h("td", {}, h("span", { class: "pill", "data-status": machine.status }, machine.word)),
          h("td", {}, h("a", { href: `#/machine/${encodeURIComponent(machine.id)}` }, machine.name), " ",
            h("span", { class: "faint small" }, machine.reason)),
          h("td", {}, when(machine.since)),
          h("td", { "data-head": "score" }, number(machine.score)),
          h("td", {}, buttons(machine)))))))
      : h("p", {}, "Nothing: every machine sounds normal."));
    load(false);
    setTimeout(() => load(false), 1000);  // the journal is on the disk a moment after the change is told
  }

  async function load(older) {
    try {
      const found = (await get(`journal?limit=50${older && items.length ? `&before=${items.at(-1).number}` : ""}`)).items;
      items = older ? [...items, ...found] : [...found, ...items.filter((item) => !found.length || item.number < found.at(-1).number)];
      more.hidden = found.length < 50;
      journal.replaceChildren(journalTable(items));
    } catch (error) { journal.replaceChildren(h("p", {}, error.message)); }
  }

  const answered = () => setTimeout(() => load(false), 500);
  window.addEventListener("answered", answered);
  state.listeners.add(update);
  stream(null);
  return () => { state.listeners.delete(update); window.removeEventListener("answered", answered); };
}
