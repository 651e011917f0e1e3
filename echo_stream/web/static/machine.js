// One machine: live score and spectrogram, trend, how well it is heard, what happened.

import { h, band, hertz, number, percent, when, ago } from "./dom.js";
import { get, state, stream } from "./api.js";
import { Spectrogram, chart, levels } from "./charts.js";
import { buttons } from "./actions.js";
import { bankBox, spanBox } from "./answers.js";
import { enrolBox } from "./enrol.js";
import { whatIfBox } from "./whatif.js";
import { journalTable } from "./alarms.js";

const LIVE_S = 600;
const DAYS = [[1, "24 hours"], [1 / 24, "1 hour"], [7, "7 days"], [30, "30 days"], [365, "a year"]];

export function machine(main, id) {
  const title = h("h1", {});
  const pill = h("span", { class: "pill" });
  const since = h("span", { class: "faint" });
  const reason = h("p", {});
  const actions = h("div", { class: "row" });
  const live = h("canvas", { class: "chart", role: "img", "aria-label": "score of the last ten minutes with the levels of warning and alarm" });
  const now = h("p", { "aria-live": "off" });
  const image = h("canvas", { role: "img", "aria-label": "spectrogram of the last minute" });
  const picture = h("div", { class: "spectrogram" }, image);
  const deciding = h("p", { class: "small faint" });
  const trend = h("canvas", { class: "chart", role: "img", "aria-label": "score over days with the levels of warning and alarm" });
  const speed = h("canvas", { class: "chart", role: "img", "aria-label": "velocity over days with the limits of its zones" });
  const velocity = h("div", { hidden: true }, h("h3", {}, "Velocity (mm/s), 10 to 1000 Hz"), speed);
  const days = h("select", { "aria-label": "how far back", onchange: () => past() }, DAYS.map(([n, text]) => h("option", { value: n }, text)));
  const listen = h("button", { onclick: () => {
    // Made anew each time: one that was paused would go on with old sound.
    listen.replaceWith(h("audio", { controls: true, autoplay: true, "aria-label": "live sound, some seconds late",
      src: `api/machines/${encodeURIComponent(id)}/listen` }));
  } }, "Listen live");
  const facts = h("dl", { class: "facts" });
  const figures = h("dl", { class: "facts" });
  const measured = h("section", { hidden: true }, h("h2", {}, "Measured, newest window"), h("div", { class: "box" }, figures));
  const journal = h("div", {});
  const [bank, leaveBank] = bankBox(id);
  const [enrolment, leaveEnrolment] = enrolBox(id);
  const learning = h("section", {}, h("h2", {}, "Learning"), enrolment);
  const [whatIf, leaveWhatIf] = whatIfBox(id);
  main.replaceChildren(
    h("p", {}, h("a", { href: "#/" }, "← all machines")),
    h("div", { class: "row" }, title, pill, since), reason, actions,
    state.me.listen ? h("div", {}, listen) : "",
    h("div", { class: "split" },
      h("section", {}, h("h2", {}, "Score, last ten minutes"), now, live,
        h("p", { class: "small faint" }, "0 is the middle of the machine's normal sound; higher is stranger. Above the alarm " +
          "level for the delay that is configured: an alarm. A score below it raises one too when it leaves its own last " +
          "minutes (step) or creeps up over hours (slow).")),
      h("section", {}, h("h2", {}, "Sound, last minute"), picture, deciding)),
    h("section", {}, h("div", { class: "row" }, h("h2", {}, "Trend"), days), trend, velocity,
      h("p", { class: "small faint" }, "Line: the middle of each minute. Shade: up to the highest. No line: not heard."), spanBox(id), whatIf),
    h("div", { class: "split" },
      h("section", {}, h("h2", {}, "What happened"), journal),
      h("section", {}, measured, h("h2", {}, "Device and its health"), h("div", { class: "box" }, facts),
        h("h2", {}, "Normal sound that it knows"), bank,
        learning)));
  const spectrogram = new Spectrogram(image);
  const recording = h("a", { class: "button", hidden: true }, "Hear and see the last alarm");
  let late = null;
  let points = [];
  let minutes = null;
  let speeds = [];
  let zones = [];
  let labelled = false;

  const mine = () => state.machines.get(id);
  const paint = () => {
    const untilS = Date.now() / 1000;
    chart(live, points, levels(mine()), { fromS: untilS - LIVE_S, untilS, empty: "no score yet" });
  };

  function update(what) {
    const found = mine();
    if (!found) {
      if (what === "machines") reason.textContent = "There is no such machine.";
      return;
    }
    now.replaceChildren("score ", h("b", {}, number(found.score)), ` (warning above ${number(found.warning?.trip)}, alarm above `,
      `${number(found.alarm?.trip)}) · level `, h("b", {}, `${number(found.level_dbfs)} dBFS`),
      found.operating_state ? ` · operating state: ${found.operating_state}` : "",
      found.zone ? ` · vibration zone ${found.zone}` : "");
    if (what === "figures") return;
    paintTrend();
    title.textContent = found.name;
    document.title = `${found.name}: ${found.word}`;
    pill.textContent = found.word;
    pill.dataset.status = found.status;
    since.textContent = found.since ? `since ${when(found.since)} (${ago(found.since)})` : "";
    reason.textContent = found.reason;
    if (found.status === "no-bank" && actions.nextElementSibling !== learning) actions.after(learning);  // all there is to do
    actions.replaceChildren(buttons(found), recording);
    refresh();
    clearTimeout(late);  // the journal is on the disk a moment after the change is told
    late = setTimeout(refresh, 1000);
  }

  function columns(frame) {
    points.push({ at_s: frame.at_s, value: frame.score, step_s: 2 });
    points = points.filter((point) => point.at_s > Date.now() / 1000 - LIVE_S);
    const strange = frame.score > (mine()?.warning?.trip ?? Infinity);
    spectrogram.add(frame, strange);
    deciding.textContent = strange ? `deciding band: ${band(frame.band_hz)} (between the blue lines)` : "no band is strange now; the picture fills from the right as sound comes";
    if (!labelled) {
      labelled = true;
      for (const hz of [50, 200, 1000, 5000, 20000, 60000]) {
        if (hz > frame.high_hz * 0.9) continue;
        const label = h("span", {}, hertz(hz));
        label.style.top = `${100 * (1 - spectrogram.share(hz))}%`;
        picture.append(label);
      }
    }
    paint();
  }

  async function past() {
    try {
      const found = await get(`machines/${encodeURIComponent(id)}/history?days=${days.value}`);
      minutes = found.minutes.map((minute) =>
        ({ at_s: minute.at_s, value: minute.score_max, low: minute.score_median, step_s: found.step_s }));
      speeds = found.minutes.filter((minute) => minute.measured.velocity_mm_s).map((minute) =>
        ({ at_s: minute.at_s, value: minute.measured.velocity_mm_s[1], low: minute.measured.velocity_mm_s[0], step_s: found.step_s }));
    } catch { minutes = speeds = []; }
    paintTrend();
  }

  function paintTrend() {
    const untilS = Date.now() / 1000;
    const span = { fromS: untilS - days.value * 86400, untilS, empty: "no history yet: the first minute is written after a minute" };
    if (minutes !== null) chart(trend, minutes, levels(mine()), span);
    velocity.hidden = !speeds.length;
    if (speeds.length) chart(speed, speeds, zones, { ...span, least: 0, marks: [0, 1, 10, 100] });
  }

  async function refresh() {
    try {
      const [detail, log, kept] = await Promise.all([get(`machines/${encodeURIComponent(id)}`),
        get(`journal?limit=20&machine=${encodeURIComponent(id)}`), get(`evidence?limit=1&machine=${encodeURIComponent(id)}`)]);
      recording.hidden = !kept.items.length;
      if (kept.items.length) recording.href = `#/evidence/${kept.items[0].event_id}`;
      if (!points.length) points = detail.recent.map((each) => ({ at_s: each.at_s, value: each.score, step_s: 2 }));
      paint();
      const { machine: found, health } = detail;
      const lines = {
        "device": found.device, "sample rate": found.sample_rate_hz ? `${found.sample_rate_hz} Hz` : "–",
        "state": found.capture, "bank of normal sound": found.bank || "–",
        "heard, ten minutes": percent(health.coverage_10m), "heard, since the start": percent(health.coverage),
        "lost in the device": `${number(health.lost_s)} s`, "skipped, PC too slow": `${number(health.skipped_s)} s`,
        "no sound came": `${number(health.unheard_s)} s`,
        "sound to score (99 %)": health.lag_p99_s === null || health.lag_p99_s === undefined ? "–" : `${number(health.lag_p99_s, 2)} s`,
      };
      const names = ["D", "C", "B"];
      const colours = ["--red", "--amber", "--faint"];
      zones = detail.limits_mm_s.toReversed().map((limit, n) => [limit, colours[n], `zone ${names[n]} above ${limit}`]);
      const shown = Object.fromEntries(detail.measured.map((each) => [each.text, `${number(each.value, 2)} ${each.unit}`]));
      if (found.zone) shown["Zone of the velocity, last minute"] = found.zone;
      if (health.speed) shown["Speed of the shaft"] = health.speed.text;
      measured.hidden = !Object.keys(shown).length;
      for (const [list, values] of [[facts, lines], [figures, shown]]) {
        list.replaceChildren(...Object.entries(values).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
      }
      journal.replaceChildren(journalTable(log.items, false));
    } catch (error) { reason.textContent = error.message; }
  }

  const repaint = () => { paint(); paintTrend(); };  // a telephone is turned
  addEventListener("resize", repaint);
  state.listeners.add(update);
  stream(id, columns);
  past();
  const timers = [setInterval(past, 60_000), setInterval(refresh, 10_000)];
  return () => { removeEventListener("resize", repaint); state.listeners.delete(update); timers.forEach(clearInterval); clearTimeout(late); leaveBank(); leaveEnrolment(); leaveWhatIf(); };
}
