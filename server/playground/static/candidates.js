// Candidate answers with their scores, and how the players of the consensus game came to agree.

import { bar, plot } from "./charts.js";
import { h, short } from "./dom.js";

const PROBABILITIES = ["sc", "d", "er_g", "er_d", "weight", "quality", "kept"];
const SERIES = 8; // lines that are told apart by colour and dash

/** A table of candidates, best first, with a bar for each score. rule: the score that ordered them. */
export function candidates(rows, rule) {
  const names = [...new Set(rows.flatMap((one) => Object.keys(one.scores)))];
  const range = Object.fromEntries(names.map((name) => [name, rangeOf(rows, name)]));
  const head = ["", "candidate", ...names.map((name) => (name === rule ? `${name} ▾` : name))];
  const body = rows.map((one, index) =>
    h(
      "tr",
      { class: index ? null : "chosen", "data-candidate": one.sample ?? one.index },
      h(
        "td",
        { class: "rank" },
        h("span", { class: `dot series-${index % SERIES}`, "aria-hidden": "true" }),
        String(index + 1),
      ),
      h("th", { scope: "row", class: "text" }, one.text, note(one)),
      ...names.map((name) =>
        h(
          "td",
          { "data-score": name },
          name in one.scores
            ? bar(shareOf(one.scores[name], range[name]), short(one.scores[name]), name === rule ? "by" : "")
            : "–",
        ),
      ),
    ),
  );
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": "Candidates and scores" },
    h(
      "table",
      { class: "scores" },
      h("caption", {}, "Candidates, best first"),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ...head.map((text) =>
            h("th", { scope: "col" }, text || h("span", { class: "hidden-visually" }, "place")),
          ),
        ),
      ),
      h("tbody", {}, ...body),
    ),
  );
}

function note(one) {
  const said = [];
  if (one.count > 1) said.push(`${one.count} samples`);
  if (one.tokens !== undefined) said.push(`${one.tokens} ${one.tokens === 1 ? "token" : "tokens"}`);
  if (one.answer && one.answer !== one.text.trim()) said.push(`counts as ${JSON.stringify(one.answer)}`);
  return said.length ? h("span", { class: "note" }, said.join(" · ")) : null;
}

/** What a bar's ends stand for: 0 and 1 of a probability, else the least and the greatest score. */
function rangeOf(rows, name) {
  if (PROBABILITIES.includes(name)) return [0, 1];
  const values = rows.filter((one) => name in one.scores).map((one) => one.scores[name]);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  // The least one keeps a bit of a bar, so that it is not taken for none.
  return low >= 0 ? [0, high] : [low - (high - low) * 0.1, high];
}

const shareOf = (value, [low, high]) => (high > low ? (value - low) / (high - low) : 1);

/** Both players' policies over the rounds of the game. */
export function policies(path, names) {
  const titles = { er_d: "discriminator, π(correct | y)", er_g: "generator, π(y | correct)" };
  return Object.entries(titles).map(([name, title]) =>
    plot({
      title: `Towards the equilibrium: ${title}`,
      lines: names.map((text, y) => ({
        name: text,
        kind: `series-${y % SERIES}`,
        points: path.iterations.map((round, index) => [round, path[name][index][y]]),
      })),
      log: true,
      high: 1,
      x: "rounds (logarithmic)",
      y: name,
    }),
  );
}

/** The samples of a conformal set in the order in which they were drawn. */
export function set(layer) {
  const rows = layer.samples.map((one) =>
    h(
      "tr",
      { class: one.kept ? "chosen" : null },
      h("td", {}, one.kept ? "kept" : "rejected"),
      h("th", { scope: "row", class: "text" }, one.text),
      h("td", { "data-quality": "" }, bar(one.quality, short(one.quality), one.kept ? "by" : "")),
    ),
  );
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": "The set and what was looked at" },
    h(
      "table",
      { class: "scores" },
      h(
        "caption",
        {},
        `The set: ${layer.set.length} of ${layer.samples.length} samples looked at`,
        layer.complete ? "" : ", not complete",
      ),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ...["", "sample", "quality"].map((text) =>
            h("th", { scope: "col" }, text || h("span", { class: "hidden-visually" }, "kept")),
          ),
        ),
      ),
      h("tbody", {}, ...rows),
    ),
  );
}
