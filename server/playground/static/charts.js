// Bars and line plots. Every number that is drawn is also there as text.

import { h, s, short } from "./dom.js";

const WIDEST = 560; // pixels; narrower where the window is
const HEIGHT = 190;
const LABEL = 4; // below the axes' names, for what of a letter hangs below its line
const PAD = { left: 44, right: 12, top: 10, bottom: 30 };

/** A bar of a share between 0 and 1, with what it stands for as text. */
export function bar(share, label, kind = "") {
  const fill = h("span", { class: `fill ${kind}` });
  fill.style.setProperty("--share", `${Math.max(0, Math.min(1, share)) * 100}%`);
  return h(
    "span",
    { class: "bar" },
    h("span", { class: "track" }, fill),
    h("span", { class: "value" }, label),
  );
}

/** One bar of several parts: [{name, value, kind}]. */
export function parts(given, unit) {
  const total = given.reduce((sum, one) => sum + one.value, 0) || 1;
  const pieces = given.map((one) => {
    const piece = h("span", { class: `piece ${one.kind}` });
    piece.style.setProperty("--share", `${(one.value / total) * 100}%`);
    return piece;
  });
  const legend = given.map((one) =>
    h(
      "li",
      {},
      h("span", { class: `swatch ${one.kind}` }),
      `${one.name} `,
      h("b", { "data-part": one.name }, short(one.value)),
      ` ${unit} (${Math.round((one.value / total) * 100)}%)`,
    ),
  );
  return h(
    "div",
    { class: "parts" },
    h("div", { class: "stack", "aria-hidden": "true" }, ...pieces),
    h("ul", { class: "legend" }, ...legend),
  );
}

/**
 * A line plot. lines: [{name, points: [[x, y]], kind}]; bands: [{from, to, kind}] behind them; rules: heights
 * to mark, [{at, name}]. `log` spaces x by its logarithm, 0 standing left of 1.
 */
export function plot({
  title,
  lines,
  bands = [],
  rules = [],
  log = false,
  low = 0,
  high = null,
  x = "",
  y = "",
}) {
  const width = Math.max(260, Math.min(WIDEST, window.innerWidth - 60));
  const all = lines.flatMap((line) => line.points);
  const across = log ? (value) => (value <= 0 ? -0.35 : Math.log10(value)) : (value) => value;
  const xs = all.map(([value]) => across(value));
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const top = high ?? Math.max(...all.map(([, value]) => value), ...rules.map((one) => one.at)) * 1.06;
  const px = (value) =>
    PAD.left + ((across(value) - left) / (right - left || 1)) * (width - PAD.left - PAD.right);
  const py = (value) =>
    HEIGHT - PAD.bottom - ((value - low) / (top - low || 1)) * (HEIGHT - PAD.top - PAD.bottom);
  const ticks = log ? [0, ...decades(all)] : spread(left, right);
  const drawing = s(
    "svg",
    { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": title, class: "plot" },
    ...bands.map((band) =>
      s("rect", {
        class: `band ${band.kind}`,
        x: px(band.from),
        y: PAD.top,
        width: Math.max(0, px(band.to) - px(band.from)),
        height: HEIGHT - PAD.top - PAD.bottom,
      }),
    ),
    ...spread(low, top).flatMap((value) => [
      s("line", { class: "grid", x1: PAD.left, x2: width - PAD.right, y1: py(value), y2: py(value) }),
      s("text", { class: "tick", x: PAD.left - 6, y: py(value) + 4, "text-anchor": "end" }, short(value)),
    ]),
    ...ticks.map((value) =>
      s(
        "text",
        { class: "tick", x: px(value), y: HEIGHT - PAD.bottom + 15, "text-anchor": "middle" },
        short(value),
      ),
    ),
    ...rules.map((one) =>
      s("line", { class: "rule", x1: PAD.left, x2: width - PAD.right, y1: py(one.at), y2: py(one.at) }),
    ),
    ...lines.map((line) =>
      s(
        "polyline",
        {
          class: `line ${line.kind}`,
          "data-line": line.name,
          points: line.points.map(([a, b]) => `${px(a).toFixed(1)},${py(b).toFixed(1)}`).join(" "),
        },
        s("title", {}, line.name),
      ),
    ),
    ...rules.map((one) =>
      s(
        "text",
        { class: "tick above", x: width - PAD.right, y: py(one.at) - 4, "text-anchor": "end" },
        one.name,
      ),
    ),
    s("text", { class: "tick axis", x: width - PAD.right, y: HEIGHT - LABEL, "text-anchor": "end" }, x),
    s("text", { class: "tick axis", x: 4, y: HEIGHT - LABEL, "text-anchor": "start" }, y),
  );
  return h("figure", { class: "figure" }, h("figcaption", {}, title), drawing);
}

function decades(points) {
  const most = Math.max(...points.map(([value]) => value));
  return Array.from({ length: Math.floor(Math.log10(most)) + 1 }, (_, power) => 10 ** power);
}

/** About four round values from `low` to `high`. */
function spread(low, high) {
  const raw = (high - low || 1) / 4;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * size).find((one) => one >= raw);
  const first = Math.ceil(low / step);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: Math.max(0, count) }, (_, index) =>
    Number(((first + index) * step).toPrecision(6)),
  );
}
