// What an alarm was, and what the bank of normal sound becomes by it.

import { h, number, say, when } from "./dom.js";
import { get, post, state } from "./api.js";

// Asks for a name and a reason; calls `done` with what the daemon said.
function confirm(title, text, path, body, done) {
  const name = h("input", { required: true, maxlength: 100, autocomplete: "name",
    value: state.me.name ?? localStorage.getItem("by") ?? "", readonly: state.me.name !== null });
  const reason = h("input", { maxlength: 300 });
  const condition = h("input", { maxlength: 100, placeholder: "such as high load" });
  const dialog = h("dialog", { "aria-label": title }, h("form", { method: "dialog" },
    h("h2", {}, title), h("p", {}, text),
    h("label", {}, "Your name (it stands in the journal)", name),
    "do" in body ? null : h("label", {}, "What it was (if you like)", reason),
    body.answer === "normal" ? h("label", {}, "Name of this operating state (if you like)", condition) : null,
    h("p", { class: "row" }, h("button", { class: "main", value: "do" }, title),
      h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"))));
  dialog.addEventListener("close", async () => {
    dialog.remove();
    if (dialog.returnValue !== "do") return;
    if (state.me.name === null) localStorage.setItem("by", name.value);
    const asked = { ...body, by: name.value, ...(reason.value ? { reason: reason.value } : {}),
      ...(condition.value ? { condition: condition.value } : {}) };
    try {
      const outcome = await post(path, asked);
      if (body.do === "accept" && !outcome.ok && outcome.outcome.includes("confirmed faults")) {
        confirm(`${title} anyway`, outcome.outcome, path, { ...body, anyway: true }, done);
        return;
      }
      say(outcome.outcome, !outcome.ok);
      done();
    } catch (error) { say(`not sent: ${error.message}`, true); }
  });
  document.body.append(dialog);
  dialog.showModal();
}

export function answerBox(found) {
  if (state.me?.role !== "operator" || !found.clip) return "";
  const path = `evidence/${found.event_id}/answer`;
  const go = () => { location.hash = `#/machine/${encodeURIComponent(found.machine)}`; };
  return h("section", { class: "box" }, h("h2", {}, "What was it?"), h("div", { class: "row" },
    h("button", { onclick: () => confirm("A fault", "Its sound is kept, however old it becomes.", path, { answer: "fault" }, () => {}) }, "A fault"),
    h("button", { onclick: () => confirm("Normal: learn it", "The daemon learns this sound, from the change on, as a proposal; where it is far from " +
      "all that the bank knows, as an operating state of its own. Nothing changes before you have seen what it would do and accept it.", path, { answer: "normal" }, go) }, "Normal: learn it")));
}

// A stretch of history: what was kept of it is a fault, or normal.
export function spanBox(id) {
  if (state.me?.role !== "operator") return "";
  const local = (at) => new Date(at - new Date().getTimezoneOffset() * 60000).toISOString().slice(0, 19);
  const input = (label, at) => h("input", { type: "datetime-local", step: 1, "aria-label": label, value: local(at) });
  const [from, to] = [input("from", Date.now() - 3600_000), input("to", Date.now())];
  const path = `machines/${encodeURIComponent(id)}/answer`;
  const body = (answer) => ({ answer, from_s: new Date(from.value) / 1000, to_s: new Date(to.value) / 1000 });
  const told = () => window.dispatchEvent(new Event("answered"));
  const answer = (title, text, what) => h("button", { onclick: () => confirm(title, text, path, body(what), told) }, title);
  return h("details", { class: "box" }, h("summary", {}, "What was it, from one time to another?"),
    h("p", { class: "row" }, h("label", {}, "from ", from), h("label", {}, "to ", to)),
    h("p", { class: "row" },
      answer("A fault", "What was kept of that time stands for a fault: every later bank must still find it.", "fault"),
      answer("Normal: learn it", "The daemon makes a proposal of what was kept of that time, alarms too. Nothing changes before you accept it.", "normal")),
    h("p", { class: "small faint" }, "Of the past the daemon keeps features of 16 windows now and then (every 2 minutes at first, after weeks every " +
      "some hours), and of what led to the last 20 alarms and warnings; sound of alarms only."));
}

function comparison(found) {
  const both = [found.in_use, found.other];
  const finds = (bank, events) => `${events.filter((e) => (bank === both[0] ? e.found_before : e.found_after)).length} of ${events.length}`;
  const smallest = ({ sensitivity: s }) => {
    const gains = s?.thirds.flatMap((fault) => Object.values(fault.steady_db)).filter((gain) => gain !== null) ?? [];
    return gains.length ? `${number(Math.min(...gains), 0)} dB` : "–";
  };
  const lines = {
    "made": (bank) => when(bank.created),
    "learnt of": (bank) => `${number(bank.minutes)} min: ${bank.conditions.join(", ")}`,
    "alarm above": (bank) => number(bank.levels.alarm.level),
    "warning above": (bank) => number(bank.levels.warning.level),
    "false alarms a month, expected": (bank) => number(bank.levels.alarm.expected_per_month, 2),
    "smallest fault, in its best band": smallest,
    "normal sound to hear": (bank) => `${number(bank.normal_sound_s, 0)} s`,
    "confirmed faults found": (bank) => finds(bank, found.events.filter((e) => e.confirmed)),
    "past alarms and warnings found": (bank) => finds(bank, found.events),
  };
  const changed = found.events.filter((e) => e.found_before !== e.found_after);
  return h("div", {}, h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, ["", `${both[0].id}, in use`, both[1].id].map((x) => h("th", {}, x)))),
    h("tbody", {}, Object.entries(lines).map(([name, of]) => h("tr", {}, h("td", { class: "wrap" }, name), both.map((bank) => h("td", {}, of(bank)))))))),
  h("ul", {}, changed.map((e) => h("li", {}, `${e.level} of ${when(e.at)}: ${e.found_after ? `found by ${both[1].id} alone` : e.what}`))));
}

export function bankBox(id) {
  const box = h("div", { class: "box" }, h("p", { class: "faint" }, "loading"));
  let timer = null;
  async function load() {
    clearTimeout(timer);
    try {
      const bank = await get(`machines/${encodeURIComponent(id)}/bank`);
      box.replaceChildren(...content(id, bank, load));
      if (bank.proposal?.state === "running") timer = setTimeout(load, 5000);
    } catch (error) { box.replaceChildren(h("p", {}, error.message)); }
  }
  load();
  window.addEventListener("learnt", load);
  return [box, () => { clearTimeout(timer); window.removeEventListener("learnt", load); }];
}

function content(id, { versions, proposal }, again) {
  const path = `machines/${encodeURIComponent(id)}/bank`;
  const operator = state.me?.role === "operator";
  const inUse = versions.find((version) => version.accepted);
  const accept = (version) => confirm(`Use ${version}`, `${version} is in use from the next second on instead of ${inUse?.id}. ` +
    "You can go back.", path, { do: "accept", bank_id: version }, again);
  const found = [];
  const beside = h("div", { role: "status" });
  const compare = async (version) => {
    beside.replaceChildren(h("p", { class: "faint" }, "being compared; this takes some seconds"));
    try {
      beside.replaceChildren(h("h3", {}, `${version} beside the one in use`), comparison(await get(`${path}/${version}`)));
    } catch (error) { beside.replaceChildren(h("p", {}, error.message)); }
  };
  if (proposal?.state === "running") found.push(h("p", { role: "status" }, "A sound is being learnt. This takes up to some minutes."));
  if (proposal?.state === "failed") found.push(h("p", {}, `The sound could not be learnt: ${proposal.said}`));
  if (proposal?.state === "ready" && !versions.find((v) => v.id === proposal.bank_id)?.accepted) {
    const worse = proposal.verdict === "fail" || proposal.alarm_after > 2 * proposal.alarm_before;
    found.push(h("h3", {}, proposal.event_id
        ? `Proposal ${proposal.bank_id}, from an alarm that ${proposal.by} calls normal`
        : `Proposal ${proposal.bank_id}, from what was heard since, asked for by ${proposal.by}`),
      h("ul", {},
        h("li", {}, `An alarm would be raised above a score of ${number(proposal.alarm_after)}; now above ${number(proposal.alarm_before)}. A warning above ${number(proposal.warning_after)}; now ${number(proposal.warning_before)}.`),
        proposal.score_before === null ? "" : h("li", {}, `Until now this sound scores up to ${number(proposal.score_before)}.`),
        proposal.checks.map((check) => h("li", {}, check))),
      worse ? h("p", { role: "alert" }, h("strong", {}, "With this bank less would be noticed, or a check is red. "),
        "See what is said above, and compare it with the one in use.") : "",
      operator ? h("button", { class: worse ? null : "main", onclick: () => accept(proposal.bank_id) }, `Use ${proposal.bank_id}`) : "");
  }
  found.push(h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, ["version", "made", ""].map((x) => h("th", {}, x)))),
    h("tbody", {}, versions.toReversed().map((v) => h("tr", {},
      h("td", {}, v.id), h("td", {}, when(v.made)),
      h("td", {}, v.accepted ? "in use" : h("span", { class: "row" },
        operator ? h("button", { onclick: () => accept(v.id) }, `Use ${v.id}`) : "",
        h("button", { onclick: () => compare(v.id) }, `Compare ${v.id}`)))))))), beside);
  if (operator && versions.length) found.push(h("p", {}, h("button", { disabled: proposal?.state === "running", onclick: () => confirm("Learn what was heard",
    "The daemon makes a proposal of the normal sound that it heard since the last fit, without what was heard during alarms. " +
    "Nothing changes before you accept it.", path, { do: "propose" }, again) }, "Learn what was heard")));
  return found;
}
