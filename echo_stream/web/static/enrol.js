// Learning the normal sound of a machine while the daemon listens: start, watch, pause, end, report.

import { h, number, percent, say } from "./dom.js";
import { byUrgency, get, post, state } from "./api.js";

const LENGTHS = [[10, "10 minutes"], [30, "30 minutes"], [60, "1 hour"], [8 * 60, "8 hours"], [24 * 60, "1 day"],
  [3 * 24 * 60, "3 days"], [7 * 24 * 60, "1 week"]];
const STAGES = { listening: "Listening", paused: "Paused", fitting: "Learning what was heard",
  done: "Learnt", failed: "Nothing was learnt" };
const LOWEST_DBFS = -80;
const HUM = 0.5;

const path = (id) => `machines/${encodeURIComponent(id)}/enrolment`;
const length = (s) => s < 90 ? `${Math.ceil(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : s < 172800 ? `${number(s / 3600)} h` : `${number(s / 86400)} days`;

function nameField() {
  return h("input", { name: "by", required: true, maxlength: 100, autocomplete: "name",
    value: state.me.name ?? localStorage.getItem("by") ?? "", readonly: state.me.name !== null });
}

async function send(id, asked) {
  if (state.me.name === null && asked.by) localStorage.setItem("by", asked.by);
  try {
    const outcome = await post(path(id), { by: state.me.name ?? localStorage.getItem("by") ?? "", ...asked });
    say(`${state.machines.get(id)?.name ?? id}: ${outcome.outcome}`, !outcome.ok);
  } catch (error) { say(`not sent: ${error.message}`, true); }
}

// Asks how long and which operating state; then begins for each of the machines.
function ask(ids, known, done) {
  const name = nameField();
  const minutes = h("select", { name: "minutes" }, LENGTHS.map(([n, text]) => h("option", { value: n }, text)));
  const own = h("input", { name: "own", type: "number", min: "0.05", max: "86400", step: "any", "aria-label": "minutes" });
  const condition = h("input", { name: "condition", maxlength: 100, list: "states" });
  const dialog = h("dialog", { "aria-label": "Learn what is normal" }, h("form", { method: "dialog" },
    h("h2", {}, "Learn what is normal"),
    h("p", {}, "The machine must run as it should, in all that it usually does, for all of this time. The daemon goes on watching meanwhile."),
    h("label", {}, "How long", minutes), h("label", {}, "or so many minutes", own),
    h("label", {}, known.length > 1 ? `Operating state (empty: ${known.join(" and ")}, as the daemon tells them apart)` : "Operating state (if it has several)", condition,
      h("datalist", { id: "states" }, known.map((each) => h("option", { value: each })))),
    h("label", {}, "Your name (it stands in the journal)", name),
    h("p", { class: "row" }, h("button", { class: "main", value: "do" }, "Start"),
      h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"))));
  dialog.addEventListener("close", async () => {
    dialog.remove();
    if (dialog.returnValue !== "do") return;
    const asked = { action: "start", minutes: Number(own.value || minutes.value), by: name.value };
    if (condition.value.trim()) asked.condition = condition.value.trim();
    for (const id of ids) await send(id, asked);
    done();
  });
  document.body.append(dialog);
  dialog.showModal();
}

export function enrolBox(id) {
  const box = h("div", { class: "box", id: "enrolment" }, h("p", { class: "faint" }, "loading"));
  let timer = null;
  let shown = "";
  let gone = false;
  let stage = null;
  async function load() {
    clearTimeout(timer);
    try {
      const found = await get(path(id));
      if (gone) return;
      const text = JSON.stringify(found);
      if (text !== shown) {
        shown = text;
        const focused = box.contains(document.activeElement) ? document.activeElement.textContent : null;
        const report = box.querySelector("iframe");
        box.replaceChildren(...content(id, found, load, report));
        if (focused) [...box.querySelectorAll("button")].find((each) => each.textContent === focused)?.focus();
      }
      if (stage === "fitting" && found.enrolling?.stage === "done") window.dispatchEvent(new Event("learnt"));
      stage = found.enrolling?.stage;
      const working = ["listening", "paused", "fitting"].includes(found.enrolling?.stage);
      timer = setTimeout(load, working ? 1000 : 10000);
    } catch (error) {
      box.replaceChildren(h("p", {}, error.message));
      timer = setTimeout(load, 10000);
    }
  }
  load();
  return [box, () => { gone = true; clearTimeout(timer); }];
}

function content(id, { enrolling: at, known }, again, report) {
  const operator = state.me?.role === "operator";
  const act = (action, title, main = false) =>
    h("button", { class: main ? "main" : null, onclick: async () => { await send(id, { action, by: state.me.name ?? localStorage.getItem("by") ?? "somebody" }); again(); } }, title);
  const start = () => h("button", { class: "main", onclick: () => ask([id], known, again) }, known.length ? "Learn anew" : "Learn what is normal");
  if (!at) {
    return [h("p", {}, known.length ? "Its normal sound can be learnt anew, or that of a further operating state."
      : "The daemon hears this machine and does not know yet what is normal. Let it run as it should, and start."), operator ? start() : ""];
  }
  const found = [h("h3", { role: "status" }, `${STAGES[at.stage]}: ${at.conditions.join(" and ")}`)];
  if (["listening", "paused", "fitting"].includes(at.stage)) {
    found.push(h("progress", { max: 1, value: at.progress, "aria-label": "how far it is" }),
      h("p", {}, at.stage === "fitting" ? `${length(at.heard_s)} were heard; this takes up to some minutes.`
        : `${length(at.heard_s)} heard, ${length(at.left_s)} left`, at.lost_s >= 1 ? `, ${length(at.lost_s)} lost` : ""));
  }
  if (at.stage === "listening") found.push(...meter(at));
  if (at.said) found.push(h("p", { role: "alert" }, at.said));
  if (at.stage === "done") {
    for (const fit of at.fits) {
      const address = `api/${path(id)}/report?bank=${fit.bank}`;
      const word = { ok: "good", warn: "look at what it says", fail: "not usable" }[fit.verdict] ?? fit.verdict;
      found.push(h("p", {}, `${fit.condition}: version ${fit.bank}, ${word}. `, h("a", { href: address, target: "_blank" }, "Report by itself")),
        report?.getAttribute("src") === address ? report : h("iframe", { class: "report", src: address, title: `report of ${fit.bank}` }));
    }
  }
  if (operator) {
    const rows = {
      listening: () => [act("pause", "Pause"), act("finish", "Stop and learn"), act("cancel", "Discard")],
      paused: () => [act("resume", "Go on", true), act("finish", "Stop and learn"), act("cancel", "Discard")],
      fitting: () => [act("cancel", "Discard")],
      done: () => [start(), act("cancel", "Close")],
      failed: () => [start(), at.kept_s > 0 ? act("finish", "Try again with what was heard") : "", act("cancel", "Close")],
    };
    found.push(h("p", { class: "row" }, rows[at.stage]()));
  }
  return found;
}

function meter(at) {
  const share = at.level_dbfs === null ? 0 : Math.min(1, Math.max(0, 1 - at.level_dbfs / LOWEST_DBFS));
  const clipped = at.clipped > 0 ? "CLIPPED: lower the gain of the input" : at.ever_clipped ? "it was clipped before" : "not clipped";
  const hum = at.hum > HUM ? `hum of the mains (${percent(at.hum)} of the power): is the cable in order?` : "no hum";
  return [
    h("label", {}, `Level ${at.level_dbfs === null ? "– (no sound yet)" : `${number(at.level_dbfs)} dBFS`}`,
      h("meter", { min: 0, max: 1, high: 0.95, value: share })),
    h("p", { class: at.clipped > 0 || at.hum > HUM ? "bad" : "small faint" }, `${clipped}; ${hum}`),
  ];
}

// For the wall: all machines that nothing is known of, at once.
export function enrolAllButton() {
  const ids = byUrgency().filter((machine) => machine.status === "no-bank").map((machine) => machine.id);
  if (ids.length < 2 || state.me?.role !== "operator") return "";
  return h("button", { onclick: () => ask(ids, [], () => {}) }, `Learn all ${ids.length} machines that are not learnt yet`);
}
