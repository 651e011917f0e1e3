// What was kept of an alarm: its sound, the picture, what changed, what it was.

import { h, hertz, number, percent, say, when } from "./dom.js";
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

// Two sounds and one button that changes from one to the other; both equally loud for equal sound.
function hear(found, url) {
  const { normal } = found;
  const loudest = Math.max(found.full_scale, normal?.full_scale ?? 0);
  const from = Math.max(0, (found.onset_s ?? found.alarm_s ?? 1) - 1);
  const sounds = [{ name: "the alarm", from, part: player("clip", "sound of the alarm", found.full_scale) }];
  function player(what, label, full) {
    const audio = h("audio", { controls: true, preload: "metadata", src: url(what), "aria-label": label });
    audio.volume = full / loudest;
    return audio;
  }
  const play = (sound) => {
    for (const other of sounds) other.part.pause();
    sound.part.currentTime = sound.from;
    sound.part.play().catch((error) => say(`it cannot be played: ${error.message}`, true));
  };
  const [alarm] = sounds;
  const buttons = [h("button", { onclick: () => play(alarm) }, "Play from the change"),
    h("a", { class: "button", href: url("clip"), download: true }, "Download")];
  if (!normal) {
    return [alarm.part, h("p", { class: "row" }, buttons), h("p", { class: "small faint" },
      "No normal sound was kept to compare it with: it is kept when a bank is fitted (evidence.keep_normal_s).")];
  }
  const other = { name: "normal sound", from: Math.min(normal.at_s, Math.max(0, normal.duration_s - 3)),
    part: player("normal", "normal sound", normal.full_scale) };
  sounds.push(other);
  let next = 0;
  const now = h("span", { role: "status" });
  const change = h("button", { class: "main", onclick: () => {
    play(sounds[next]);
    now.textContent = `You hear ${sounds[next].name}.`;
    next = 1 - next;
    change.textContent = `Hear ${sounds[next].name}`;
  } }, "Compare: alarm and normal");
  return [h("p", { class: "row" }, change, now), alarm.part, h("p", { class: "row" }, buttons),
    h("h3", {}, "Nearest normal sound"), other.part,
    h("p", { class: "small faint" }, `What is most like it of the normal sound that was kept (operating state ${normal.condition}, ` +
      `bank ${normal.version}, ${normal.recording}, from ${number(normal.start_s)} s on). The button changes from one to the other, ` +
      "equally loud: Enter or space, once it has the focus.")];
}

function show(main, found) {
  const { event } = found;
  const machine = state.machines.get(found.machine) ?? { id: found.machine, name: found.machine };
  const url = (what) => `api/evidence/${found.event_id}/${what}`;
  const facts = {
    "why": event.why || "the score stayed over the level",
    "score": `${number(event.score)} (level ${number(event.threshold)})`,
    "level": event.evidence?.level_delta_db === null ? "–" : `${event.evidence.level_delta_db > 0 ? "+" : ""}${number(event.evidence.level_delta_db)} dB against usual`,
    "heard, ten minutes before": percent(event.coverage_10m),
    "began": when(event.onset_ts),
    ...(found.speed ? { "speed of the shaft": found.speed } : {}),
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
          (found.complete ? "" : " The sound after it is still being recorded.")), hear(found, url)].flat() : h("p", {}, "The sound is gone or was not kept."),
      ),
      h("section", { class: "box" },
        h("h2", {}, "What changed"),
        found.bands.length || found.lines.length ? h("ul", {}, [...found.bands.map(louder), ...found.lines].map((text) => h("li", {}, text)))
          : h("p", { class: "faint" }, found.picture ? "no band by itself is outside its normal range" : "not measured yet"),
        h("dl", { class: "facts" }, Object.entries(facts).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])))),
    answerBox(found),
    found.picture ? h("p", {}, h("img", { class: "picture", src: url("picture"),
      alt: `Spectrogram of the alarm beside normal sound. ${found.bands.map(louder).join("; ")}` }))
      : h("p", { class: "faint" }, "The picture is being drawn."));
}
