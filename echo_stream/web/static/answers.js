// What an alarm was, and what the bank of normal sound becomes by it.

import { h, number, say, when } from "./dom.js";
import { get, post, state } from "./api.js";

// Asks for a name and a reason; calls `done` with what the daemon said.
function confirm(title, text, path, body, done) {
  const name = h("input", { required: true, maxlength: 100, autocomplete: "name",
    value: state.me.name ?? localStorage.getItem("by") ?? "", readonly: state.me.name !== null });
  const reason = h("input", { maxlength: 300 });
  const dialog = h("dialog", { "aria-label": title }, h("form", { method: "dialog" },
    h("h2", {}, title), h("p", {}, text),
    h("label", {}, "Your name (it stands in the journal)", name),
    "do" in body ? null : h("label", {}, "What it was (if you like)", reason),
    h("p", { class: "row" }, h("button", { class: "main", value: "do" }, title),
      h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"))));
  dialog.addEventListener("close", async () => {
    dialog.remove();
    if (dialog.returnValue !== "do") return;
    if (state.me.name === null) localStorage.setItem("by", name.value);
    const asked = { ...body, by: name.value, ...(reason.value ? { reason: reason.value } : {}) };
    try {
      const outcome = await post(path, asked);
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
    h("button", { onclick: () => confirm("Normal: learn it", "The daemon learns this sound, from the change on, as a proposal. " +
      "Nothing changes before you have seen what it would do and accept it.", path, { answer: "normal" }, go) }, "Normal: learn it")));
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
  return [box, () => clearTimeout(timer)];
}

function content(id, { versions, proposal }, again) {
  const path = `machines/${encodeURIComponent(id)}/bank`;
  const operator = state.me?.role === "operator";
  const inUse = versions.find((version) => version.accepted);
  const accept = (version) => confirm(`Use ${version}`, `${version} is in use from the next second on instead of ${inUse?.id}. ` +
    "You can go back.", path, { do: "accept", bank_id: version }, again);
  const found = [];
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
      worse ? h("p", { role: "alert" }, h("strong", {}, "With this bank much less would be noticed. "),
        !proposal.event_id ? "" : "The sound is far from what the bank knows. Is it an operating state of its own? Then enrol it by itself: fit-normal --condition NAME.") : "",
      operator ? h("button", { class: worse ? null : "main", onclick: () => accept(proposal.bank_id) }, `Use ${proposal.bank_id}`) : "");
  }
  found.push(h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, ["version", "made", ""].map((x) => h("th", {}, x)))),
    h("tbody", {}, versions.toReversed().map((v) => h("tr", {},
      h("td", {}, v.id), h("td", {}, when(v.made)),
      h("td", {}, v.accepted ? "in use" : operator ? h("button", { onclick: () => accept(v.id) }, `Use ${v.id}`) : "")))))));
  if (operator && versions.length) found.push(h("p", {}, h("button", { disabled: proposal?.state === "running", onclick: () => confirm("Learn what was heard",
    "The daemon makes a proposal of the normal sound that it heard since the last fit, without what was heard during alarms. " +
    "Nothing changes before you accept it.", path, { do: "propose" }, again) }, "Learn what was heard")));
  return found;
}
