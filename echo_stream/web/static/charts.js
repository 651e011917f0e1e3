// Charts on a canvas: scores over time with the trip levels, small ones for cards, and the spectrogram.

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function fit(canvas) {
  const scale = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  return [pen, width, height];
}

// Scores of a fault are a hundred times those of normal sound: beyond the trip level the axis is logarithmic.
function scale(trip, values, least = -1) {
  const knee = Math.max(1, trip / 2);
  const bent = (value) => Math.asinh(value / knee);
  const top = bent(Math.max(trip * 1.3, ...values)) * 1.04;
  const bottom = bent(Math.min(least, ...values.filter((value) => value > -20)));
  return (value) => (bent(Math.max(value, -20)) - bottom) / (top - bottom);
}

export function levels(machine) {
  return [[machine?.alarm?.trip, "--red", "alarm"], [machine?.warning?.trip, "--amber", "warning"]].filter(
    ([level]) => level !== undefined).map(([level, name, word]) => [level, name, `${word} above ${level.toFixed(1)}`]);
}

export function spark(canvas, points, machine, untilS) {
  const [pen, width, height] = fit(canvas);
  if (!points?.length) {
    pen.fillStyle = colour("--faint");
    pen.font = "12px system-ui";
    pen.fillText("no history yet", 2, height / 2);
    return;
  }
  const trip = machine.alarm?.trip ?? 1;
  const y = scale(trip, points.map(([, value]) => value));
  const x = (at) => ((at - untilS + 86400) / 86400) * width;
  for (const [level, name] of levels(machine)) {
    pen.strokeStyle = colour(name);
    pen.setLineDash([4, 3]);
    pen.beginPath();
    pen.moveTo(0, height * (1 - y(level)));
    pen.lineTo(width, height * (1 - y(level)));
    pen.stroke();
  }
  pen.setLineDash([]);
  const step = Math.max(2, width / 96);
  for (const [at, value] of points) {
    pen.fillStyle = value > trip ? colour("--red") : colour("--accent");
    const top = height * (1 - y(value));
    pen.fillRect(x(at), top, step - 0.5, Math.max(2, height * (1 - y(0)) - top));
  }
}

// points: [{at_s, value, low?, gap?}] in order of time; lines: [level, colour, text that ends in the level], the highest first.
export function chart(canvas, points, lines, { fromS, untilS, empty, least, marks = [0, 10, 100, 1000] }) {
  const [pen, width, height] = fit(canvas);
  const [left, bottom] = [44, 22];
  pen.font = "12px system-ui";
  pen.fillStyle = colour("--faint");
  if (!points.length) {
    pen.fillText(empty, left, height / 2);
    return;
  }
  const of = scale(lines[0]?.[0] ?? 1, points.map((point) => point.value), least);
  const y = (value) => 6 + (height - bottom - 6) * (1 - of(value));
  const x = (at) => left + ((at - fromS) / (untilS - fromS)) * (width - left - 6);
  for (const value of marks) {
    const at = y(value);
    if (at > 0 && at <= height - bottom && !lines.some(([level]) => Math.abs(y(level) - at) < 20)) {
      pen.fillText(String(value), 6, at + 4);
      pen.fillRect(left, at, width - left - 6, 0.3);
    }
  }
  times(pen, fromS, untilS, x, height);
  for (const [level, name, text] of lines) {
    pen.strokeStyle = colour(name);
    pen.setLineDash([6, 4]);
    pen.lineWidth = 1.5;
    pen.beginPath();
    pen.moveTo(left, y(level));
    pen.lineTo(width - 6, y(level));
    pen.stroke();
    pen.fillStyle = colour("--ink");
    // The warning's text stands below its line: the two levels may be close together.
    const below = text.startsWith("warning");
    pen.fillText(text.split(" ").at(-1), 6, y(level) + (below ? 11 : 0));
    pen.fillText(text, left + 4, y(level) + (below ? 13 : -4));
  }
  pen.setLineDash([]);
  pen.save();
  pen.beginPath();
  pen.rect(left, 0, width - left - 6, height - bottom);
  pen.clip();
  if (points[0].low !== undefined) {
    pen.fillStyle = colour("--accent");
    pen.globalAlpha = 0.25;
    const step = Math.max(1.5, x(points[0].at_s + (points[0].step_s ?? 60)) - x(points[0].at_s));
    pen.beginPath();  // one area: what overlaps, where minutes are narrower than a pixel, is no darker
    for (const point of points) pen.rect(x(point.at_s), y(point.value), step, Math.max(1, y(point.low) - y(point.value)));
    pen.fill();
    pen.globalAlpha = 1;
  }
  pen.strokeStyle = colour("--accent");
  pen.lineWidth = 1.6;
  pen.beginPath();
  let before = null;
  for (const point of points) {
    const at = [x(point.at_s), y(point.low ?? point.value)];
    const gap = before === null || point.at_s - before > (point.step_s ?? 2) * 2.5;
    pen[gap ? "moveTo" : "lineTo"](...at);
    before = point.at_s;
  }
  pen.stroke();
  pen.restore();
}

function times(pen, fromS, untilS, x, height) {
  const span = untilS - fromS;
  const most = Math.min(8, Math.floor(pen.canvas.clientWidth / 90));  // on a telephone fewer, or they overlap
  const step = [60, 120, 600, 1800, 3600, 4 * 3600, 8 * 3600, 86400, 2 * 86400, 7 * 86400, 30 * 86400, 91 * 86400].find((s) => span / s <= most) ?? span / 4;
  const zone = new Date().getTimezoneOffset() * 60;
  for (let at = Math.ceil((fromS - zone) / step) * step + zone; at < untilS; at += step) {
    const day = new Date(at * 1000);
    const text = step < 86400
      ? day.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
      : day.toLocaleDateString([], { day: "numeric", month: "short" });
    pen.fillText(text, Math.min(x(at) - 12, pen.canvas.clientWidth - pen.measureText(text).width - 4), height - 6);
  }
}

// Dark to bright, evenly for the eye (a few stops of the map magma).
const STOPS = [[0, 0, 4], [40, 17, 89], [114, 31, 129], [183, 55, 121], [241, 96, 93], [254, 176, 120], [252, 253, 191]];
const MAP = Array.from({ length: 256 }, (_, value) => {
  const at = Math.max(0, Math.min(0.999, (value - 70) / 170)) * (STOPS.length - 1);
  const [low, high] = [STOPS[Math.floor(at)], STOPS[Math.floor(at) + 1]];
  return low.map((part, i) => Math.round(part + (high[i] - part) * (at % 1)));
});

export class Spectrogram {
  // A minute of columns; the newest are at the right.
  constructor(canvas) {
    this.canvas = canvas;
    canvas.width = 600;
    canvas.height = 256;
    this.pen = canvas.getContext("2d", { willReadFrequently: true });
    this.frame = null;
  }

  add(columns, marked) {
    this.frame = columns;
    const bytes = Uint8Array.from(atob(columns.data), (letter) => letter.charCodeAt(0));
    const n = bytes.length / columns.rows;
    const image = this.pen.createImageData(n, columns.rows);
    for (let x = 0; x < n; x++) {
      for (let row = 0; row < columns.rows; row++) {
        const [r, g, b] = MAP[bytes[x * columns.rows + row]];
        image.data.set([r, g, b, 255], 4 * ((columns.rows - 1 - row) * n + x));
      }
    }
    this.pen.globalCompositeOperation = "copy";  // where nothing was heard yet it stays empty
    this.pen.drawImage(this.canvas, -n, 0);
    this.pen.globalCompositeOperation = "source-over";
    this.pen.putImageData(image, this.canvas.width - n, 0);
    if (marked && columns.band_hz) {
      this.pen.fillStyle = "#35e0ff";
      const [low, high] = columns.band_hz.map((hz) => 256 * (1 - this.share(hz)));
      this.pen.fillRect(600 - n, high - 1, n, 2);
      this.pen.fillRect(600 - n, low - 1, n, 2);
    }
  }

  share(hz) {
    const { low_hz: low, high_hz: high } = this.frame;
    return Math.log(Math.max(hz, low) / low) / Math.log(high / low);
  }
}
