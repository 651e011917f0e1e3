// What was kept of an alarm: its sound, the picture, what changed, what it was.

import { h, hertz, number, percent, when } from "./dom.js";
import { get, state, stream } from "./api.js";
import { buttons } from "./actions.js";
import { answerBox } from "./answers.js";

const louder = (band) =>
  `${band.change} by ${number(band.by_db)} dB at ${hertz(band.low_hz)} to ${hertz(band.high_hz)}, most at ${hertz(band.peak_hz)}`;

export function recordings(main) {
  const list = h("div", {});
  main.replaceChildren(h("h1", {}, "Recordings of alarms"), list);
  stream(null);
  get("evidence").then(({ items }) => {
    list.replaceChildren(items.length ? h("div", { class: "scroll" }, h("table", { class: "stack" },
      h("thead", {}, h("tr", {}, ["when", "machine", "what changed", "score", ""].map((x) => h("th", {}, x)))),
      h("tbody", {}, items.map((item) => h("tr", {},
        h("td", {}, when(item.at)), h("td", {}, state.machines.get(item.machine)?.name ?? item.machine),
        h("td", {}, item.bands.length ? item.bands.map(louder).join("; ") : "no band by itself"),
        h("td", { "data-head": "score" }, number(item.event.score)),
        h("td", {}, h("a", { href: `#/evidence/${item.event_id}` }, "hear and see")))))))
      : h("p", {}, "Nothing was recorded yet: each alarm leaves its sound here."));
  }).catch((error) => list.replaceChildren(h("p", {}, error.message)));
  return () => {};
}

export function evidence(main, id) {
  main.replaceChildren(h("p", {}, "loading"));
  stream(null);
  let timer = null;
  let gone = false;
  async function load() {
    let found;
    try { found = await get(`evidence/${id}`); } catch (error) {
      main.replaceChildren(h("h1", {}, "Recording"), h("p", {}, `${error.message}.`),
        h("p", { class: "faint" }, "Sound is kept of alarms, not of warnings; it is written some seconds after the alarm."));
      return;
    }
    if (gone) return;
    show(main, found);
    if (!found.complete || !found.picture) timer = setTimeout(load, 3000);
  }
  load();
  return () => { gone = true; clearTimeout(timer); };
}

function show(main, found) {
  const { event } = found;
  const machine = state.machines.get(found.machine) ?? { id: found.machine, name: found.machine };
  const url = (what) => `api/evidence/${found.event_id}/${what}`;
  const alarm = h("audio", { controls: true, preload: "metadata", src: url("clip"), "aria-label": "sound of the alarm" });
  const facts = {
    "why": event.why || "the score stayed over the level",
    "score": `${number(event.score)} (level ${number(event.threshold)})`,
    "level": event.evidence?.level_delta_db === null ? "–" : `${event.evidence.level_delta_db > 0 ? "+" : ""}${number(event.evidence.level_delta_db)} dB against usual`,
    "heard, ten minutes before": percent(event.coverage_10m),
    "began": when(event.onset_ts),
    "bank of normal sound": event.bank?.id || "–",
  };
  main.replaceChildren(
    h("p", {}, h("a", { href: `#/machine/${encodeURIComponent(found.machine)}` }, `← ${machine.name}`)),
    h("h1", {}, `${machine.name}, ${when(found.at)}`),
    h("div", { class: "row" }, buttons(machine)),
    h("div", { class: "split" },
      h("section", { class: "box" },
        h("h2", {}, "Hear it"),
        found.clip ? [h("p", { class: "small faint" }, `The alarm came ${number(found.alarm_s)} s after the start, the change ` +
          `${found.onset_s === null ? "at an unknown time" : `at ${number(found.onset_s)} s`}.` +
          (found.complete ? "" : " The sound after it is still being recorded.")), alarm,
        h("p", { class: "row" },
          h("button", { onclick: () => { alarm.currentTime = Math.max(0, (found.onset_s ?? found.alarm_s) - 1); alarm.play(); } }, "Play from the change"),
          h("a", { class: "button", href: url("clip"), download: true }, "Download"))] : h("p", {}, "The sound is gone or was not kept."),
      ),
      h("section", { class: "box" },
        h("h2", {}, "What changed"),
        found.bands.length ? h("ul", {}, found.bands.map((band) => h("li", {}, louder(band))))
          : h("p", { class: "faint" }, found.picture ? "no band by itself is outside its normal range" : "not measured yet"),
        h("dl", { class: "facts" }, Object.entries(facts).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])))),
    answerBox(found),
    found.picture ? h("p", {}, h("img", { class: "picture", src: url("picture"),
      alt: `Spectrogram of the alarm beside normal sound. ${found.bands.map(louder).join("; ")}` }))
      : h("p", { class: "faint" }, "The picture is being drawn."));
}
