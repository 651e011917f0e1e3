// Elements and texts for people. Text always goes in as text, never as HTML.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const number = (value, digits = 1) =>
  value === null || value === undefined ? "–" : value.toFixed(Math.abs(value) >= 100 ? 0 : digits);

export const percent = (value) =>
  value === null || value === undefined ? "–" : `${(100 * value).toFixed(value > 0.9995 ? 0 : 1)} %`;

export const hertz = (value) =>
  value >= 1000 ? `${(value / 1000).toFixed(1)} kHz` : `${value.toFixed(0)} Hz`;

export const band = (edges) => (edges ? `${hertz(edges[0])} to ${hertz(edges[1])}` : "–");

export function when(text) {
  if (!text) return "";
  const at = new Date(text);
  const today = new Date().toDateString() === at.toDateString();
  return today ? at.toLocaleTimeString() : at.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

export function ago(text) {
  const s = Math.max(0, (Date.now() - new Date(text)) / 1000);
  if (Number.isNaN(s)) return "–";
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} days`;
}

export function say(text, bad = false) {
  const line = h("p", { class: bad ? "bad" : null }, text);
  document.getElementById("said").replaceChildren(line);
  setTimeout(() => line.remove(), bad ? 8000 : 4000);
}
