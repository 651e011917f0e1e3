// How the daemon is: what each machine lost and why, delivery, disk, versions, configuration, log.

import { h, number, percent } from "./dom.js";
import { get, stream } from "./api.js";

const facts = (lines) => h("dl", { class: "facts" },
  Object.entries(lines).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value ?? "–")]));

export function health(main) {
  const content = h("div", {});
  main.replaceChildren(h("div", { class: "row" }, h("h1", {}, "Health"),
    h("a", { class: "button", href: "api/bundle", download: true }, "Support bundle"),
    h("span", { class: "small faint" }, "a ZIP without passwords and without sound")), content);
  stream(null);

  async function load() {
    try {
      const [found, log] = await Promise.all([get("health"), get("log")]);
      content.replaceChildren(...sections(found, log));
    } catch (error) { content.replaceChildren(h("p", {}, error.message)); }
  }
  load();
  const timer = setInterval(load, 10_000);
  return () => clearInterval(timer);
}

function sections({ overview, parts, versions, config }, log) {
  const { broker, outbox } = overview;
  const disk = parts.disk ?? {};
  const { history, evidence, degraded, threads } = overview;
  const restarts = threads.filter((part) => part.restarts);
  return [
    degraded.length ? h("section", { class: "box" }, h("h2", {}, "Not as it should be"),
      h("ul", {}, degraded.map((reason) => h("li", {}, reason)))) : h("p", {}, "Nothing is wrong with the daemon itself."),
    h("div", { class: "split" },
      h("section", { class: "box" }, h("h2", {}, "Delivery"), facts({
        "broker": `${broker.host}:${broker.port}, ${broker.connected ? "connected" : "NOT connected"}`,
        "why not": broker.connected ? null : broker.last_error,
        "events that wait": String(outbox.depth), "events given up": String(outbox.dropped),
        "events sent since the start": String(broker.published),
      })),
      h("section", { class: "box" }, h("h2", {}, "This PC"), facts({
        "running for": `${number(overview.uptime_s / 3600)} h`,
        "disk": disk.error ?? `${number(disk.free_mb / 1000)} of ${number(disk.total_mb / 1000)} GB free (${disk.folder})`,
        "history": history ? `${history.written} minutes written, ${history.dropped} lost` : "off",
        "recordings of alarms": evidence ? `${evidence.kept} kept, ${evidence.failed} failed` : "off",
        "parts that failed": restarts.length ? restarts.map((p) => `${p.part}: ${p.restarts} restarts, ${p.last_error}`).join("; ") : "none",
        "people looking": String(parts.viewers),
      })),
      h("section", { class: "box" }, h("h2", {}, "Configuration"),
        config === "ok" ? h("p", {}, "The file is right. Change it in an editor and reload: systemctl reload echo-stream")
          : h("pre", {}, config)),
      h("section", { class: "box" }, h("h2", {}, "Versions"), facts({ ...versions, encoder: `${overview.encoder}, ${overview.encoder_computed_by}` }))),
    h("h2", {}, "How well each machine is heard"),
    h("div", { class: "scroll" }, h("table", { class: "stack" },
      h("thead", {}, h("tr", {}, ["machine", "heard, 10 min", "heard, since start", "lost in the device", "PC too slow", "no sound came", "sound to score, 99 %", "state"].map((x) => h("th", {}, x)))),
      h("tbody", {}, overview.machines.map((m) => h("tr", {},
        h("td", {}, h("a", { href: `#/machine/${encodeURIComponent(m.machine)}` }, m.machine)),
        h("td", { "data-head": "heard, 10 min" }, percent(m.coverage_10m)),
        h("td", { "data-head": "heard, since start" }, percent(m.coverage)),
        h("td", { "data-head": "lost in the device" }, `${number(m.lost_s)} s`),
        h("td", { "data-head": "PC too slow" }, `${number(m.skipped_s)} s`),
        h("td", { "data-head": "no sound came" }, `${number(m.unheard_s)} s`),
        h("td", { "data-head": "sound to score, 99 %" }, m.lag_p99_s === null ? "–" : `${number(m.lag_p99_s, 2)} s`),
        h("td", {}, m.reason ? `${m.capture}: ${m.reason}` : m.capture)))))),
    h("h2", {}, "Log, newest first"),
    h("div", { class: "box" }, h("pre", {}, log.lines.toReversed().map((line) => {
      const { ts, level, event, ...more } = line;
      return `${ts.slice(0, 19)}  ${level.padEnd(8)} ${event}  ${Object.entries(more).map(([k, v]) => `${k}=${v}`).join(" ")}\n`;
    }).join(""))),
  ];
}
