// What the page asks the daemon; all addresses are relative, so that a proxy may serve it under any path.

export const state = { me: null, machines: new Map(), listeners: new Set() };

export async function get(path) {
  const answer = await fetch(`api/${path}`, { headers: { Accept: "application/json" } });
  if (answer.status === 401 && path !== "me") window.dispatchEvent(new Event("login-needed"));
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.outcome || answer.statusText);
  return body;
}

export async function post(path, body) {
  const answer = await fetch(`api/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return answer.json();
}

let source = null;

// One stream at a time: of all machines, and with `machine` of its spectrogram too.
// `more`: what to do with events of other kinds.
export function stream(machine, onColumns, more = {}) {
  source?.close();
  source = new EventSource("api/stream" + (machine ? `?machine=${encodeURIComponent(machine)}` : ""));
  const line = document.getElementById("connection");
  source.onopen = () => { line.textContent = "live"; line.className = ""; };
  source.onerror = () => { line.textContent = "no connection: what you see is old"; line.className = "lost"; };
  const tell = (what) => state.listeners.forEach((listener) => listener(what));
  source.addEventListener("machines", (event) => {
    state.machines = new Map(JSON.parse(event.data).map((each) => [each.id, each]));
    tell("machines");
  });
  source.addEventListener("changed", (event) => {
    for (const each of JSON.parse(event.data)) state.machines.set(each.id, each);
    tell("changed");
  });
  source.addEventListener("figures", (event) => {
    for (const [id, [score, level, coverage]] of Object.entries(JSON.parse(event.data).machines)) {
      const machine = state.machines.get(id);
      if (machine) Object.assign(machine, { score, level_dbfs: level, coverage_10m: coverage });
    }
    tell("figures");
  });
  for (const [kind, take] of Object.entries(more)) source.addEventListener(kind, (event) => take(JSON.parse(event.data)));
  source.addEventListener("columns", (event) => onColumns?.(JSON.parse(event.data)));
}

export function closeStream() { source?.close(); source = null; }

export const byUrgency = () =>
  [...state.machines.values()].sort((a, b) => a.urgency - b.urgency || a.name.localeCompare(b.name));
