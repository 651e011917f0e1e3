// What would have happened: another level, tried on the stored minutes.

import { h, number, when } from "./dom.js";
import { get, state } from "./api.js";

const WAIT_MS = 250;
const LISTED = 20;

const slider = (label, attributes) => h("input", { type: "range", "aria-label": label, ...attributes });
const minutes = (seconds) => (seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${number(seconds / 3600)} h`);

export function whatIfBox(id) {
  const machine = () => state.machines.get(id);
  const rate = slider("accepted false alarms a month", { min: -2, max: 2, step: 0.1, value: 0 });
  const delay = slider("seconds until an alarm", { min: 0, max: 120, step: 1, value: 7 });
  const level = slider("trip level", { min: 0, max: 100, step: 0.1, value: 0 });
  const days = h("select", { "aria-label": "of the last" }, [[7, "7 days"], [28, "4 weeks"], [84, "12 weeks"]].map(([n, text]) => h("option", { value: n }, text)));
  const [rateText, delayText, levelText] = [h("output", {}), h("output", {}), h("output", {})];
  const answer = h("div", { role: "status" });
  let byLevel = false;
  let timer = null;
  let asked = 0;

  async function ask() {
    const mine = ++asked;
    const perMonth = 10 ** Number(rate.value);
    rateText.textContent = byLevel ? "as the level says" : `${number(perMonth, perMonth < 1 ? 2 : 1)} a month`;
    delayText.textContent = `${delay.value} s`;
    const query = `days=${days.value}&on_delay_s=${delay.value}&` + (byLevel ? `level=${level.value}` : `false_alarms_per_month=${perMonth}`);
    try {
      const found = await get(`machines/${encodeURIComponent(id)}/what-if?${query}`);
      if (mine !== asked) return;
      if (!byLevel) {
        level.max = Math.max(30, 3 * found.level);
        level.value = found.level;
      }
      levelText.textContent = `above ${number(found.level)}; in use: ${number(machine()?.alarm?.trip)}`;
      answer.replaceChildren(...content(found));
    } catch (error) { if (mine === asked) answer.replaceChildren(h("p", {}, error.message)); }
  }
  const soon = (mode) => () => {
    if (mode !== null) byLevel = mode;
    if (byLevel) levelText.textContent = `above ${level.value}`;
    clearTimeout(timer);
    timer = setTimeout(ask, WAIT_MS);
  };
  rate.addEventListener("input", soon(false));
  delay.addEventListener("input", soon(null));
  level.addEventListener("input", soon(true));
  days.addEventListener("change", soon(null));
  const box = h("details", { class: "box" }, h("summary", {}, "What would have happened with another level?"),
    h("p", { class: "row" }, "Of the last", days),
    h("label", { class: "slide" }, "Accepted false alarms ", rateText, rate),
    h("label", { class: "slide" }, "An alarm waits ", delayText, delay),
    h("label", { class: "slide" }, "Trip level ", levelText, level),
    answer,
    h("p", { class: "small faint" }, "Of each minute the middle and the highest score are stored, not how long a score was held. So: ",
      h("b", {}, "would have come"), " where the middle score lay over the level for every minute that the delay touches; ",
      h("b", {}, "may have come"), " where the highest did. Only the alarm's trip level is tried: alarms by step or slow creep come as they came, " +
      "and sound that was strange from the start waits ten minutes. The level of an alarm lies 0.5 over the warning's at least. Nothing is changed here: " +
      "alarm.false_alarms_per_month and alarm.on_delay_s stand in config.yaml."));
  box.addEventListener("toggle", () => { if (box.open) ask(); });
  return [box, () => { clearTimeout(timer); asked++; }];
}

function content(found) {
  const sure = found.episodes.filter((each) => each.sure);
  const maybe = found.episodes.length - sure.length;
  const listed = found.episodes.toReversed().slice(0, LISTED);
  return [
    h("p", {}, h("b", {}, `${sure.length} would have come`), `, ${maybe} more may have come; ${found.raised.length} were raised.`),
    h("p", { class: "small faint" }, `${minutes(60 * found.minutes)} of the bank in use were heard since ${when(new Date(1000 * found.since_s).toISOString())}: scores of another bank cannot be compared.`),
    listed.length ? h("div", { class: "scroll" }, h("table", { class: "stack" },
      h("thead", {}, h("tr", {}, ["from", "for", "highest score", "operating state", ""].map((x) => h("th", {}, x)))),
      h("tbody", {}, listed.map((each) => h("tr", {},
        h("td", {}, when(new Date(1000 * each.from_s).toISOString())),
        h("td", { "data-head": "for" }, minutes(each.to_s - each.from_s)),
        h("td", { "data-head": "highest score" }, number(each.highest)),
        h("td", { "data-head": "operating state" }, each.operating_state),
        h("td", {}, each.sure ? "would have come" : "may have come")))))) : h("p", {}, "No minute reached that level."),
    found.episodes.length > LISTED ? h("p", { class: "small faint" }, `the newest ${LISTED} of ${found.episodes.length}`) : "",
  ];
}
