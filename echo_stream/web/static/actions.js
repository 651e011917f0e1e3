// What people can do about an alarm: one dialog asks for the name and the reason, one function sends it.

import { h, say } from "./dom.js";
import { post, state } from "./api.js";

const HOUR = 3600;
const CHOICES = {
  ack: { title: "Acknowledge", text: "You have seen it. The alarm stays until the sound is normal again.", reason: false },
  shelve: { title: "Shelve", text: "Nobody is called about this machine for so long. It comes back by itself.", reason: true },
  unshelve: { title: "Take off the shelf", text: "The machine is watched again at once.", reason: false },
  reset: { title: "Reset", text: "Ends an alarm that stays until somebody resets it.", reason: false },
  out_of_service: { title: "Out of service", text: "No alarms until somebody takes it back into service.", reason: true },
  in_service: { title: "Back into service", text: "The machine is watched again.", reason: false },
};
const LENGTHS = [[HOUR, "1 hour"], [8 * HOUR, "8 hours"], [7 * 24 * HOUR, "1 week"]];

function possible(machine) {
  const states = [machine.alarm, machine.warning].filter(Boolean).map((level) => level.state);
  const any = (...wanted) => states.some((found) => wanted.includes(found));
  if (!states.length) return [];
  if (any("OUT_OF_SERVICE")) return ["in_service"];
  const found = [];
  if (any("UNACK", "RTN_UNACK", "LATCHED_UNACK")) found.push("ack");
  if (any("LATCHED_UNACK", "LATCHED_ACKED")) found.push("reset");
  found.push(any("SHELVED") ? "unshelve" : "shelve");
  if (!state.me.plant) found.push("out_of_service");
  return found;
}

export function buttons(machine) {
  if (state.me?.role !== "operator") return h("span", {});
  return h("span", { class: "row" }, possible(machine).map((command) =>
    h("button", {
      class: command === "ack" ? "main" : null,
      "data-command": command,
      onclick: () => ask(machine, command),
    }, CHOICES[command].title)));
}

export function ask(machine, command) {
  const choice = CHOICES[command];
  const name = h("input", { name: "by", required: true, maxlength: 100, autocomplete: "name",
    value: state.me.name ?? localStorage.getItem("by") ?? "", readonly: state.me.name !== null });
  const reason = h("input", { name: "reason", maxlength: 300, required: choice.reason });
  const length = h("select", { name: "duration" }, LENGTHS.map(([s, text]) => h("option", { value: s }, text)));
  const dialog = h("dialog", { "aria-label": choice.title },
    h("form", { method: "dialog" },
      h("h2", {}, `${choice.title}: ${machine.name}`),
      h("p", {}, choice.text),
      command === "shelve" ? h("label", {}, "For", length) : null,
      h("label", {}, "Your name (it stands in the journal)", name),
      h("label", {}, choice.reason ? "Why" : "Why (if you like)", reason),
      h("p", { class: "row" },
        h("button", { class: "main", value: "do" }, choice.title),
        h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"))));
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (dialog.returnValue !== "do") return;
    if (state.me.name === null) localStorage.setItem("by", name.value);
    const asked = { command, by: name.value };
    if (reason.value) asked.reason = reason.value;
    if (command === "shelve") asked.duration_s = Number(length.value);
    send(machine, asked);
  });
  document.body.append(dialog);
  dialog.showModal();
  (name.value ? dialog.querySelector("button.main") : name).focus();
}

export async function send(machine, asked) {
  try {
    const outcome = await post(`machines/${machine.id.split("/").map(encodeURIComponent).join("/")}/command`, asked);
    say(`${machine.name}: ${outcome.outcome}`, !outcome.ok);
    window.dispatchEvent(new Event("answered"));
    return outcome.ok;
  } catch (error) {
    say(`not sent: ${error.message}`, true);
    return false;
  }
}
