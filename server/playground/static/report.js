// What the methods did, from the answer's `decoding` object.

import { candidates, policies, set } from "./candidates.js";
import { bar, parts, plot } from "./charts.js";
import { h, short } from "./dom.js";
import { engineClass } from "./tokens.js";

const DRAWN = ["traces", "tokens", "candidates", "policies", "speculative", "samples", "set", "templates"];

/** The whole report: what can be drawn, the facts, and all of it as JSON. */
export function report(decoding) {
  const layers = Object.entries(decoding).map(([name, layer]) =>
    h(
      "section",
      { class: "report-layer", "data-report": name },
      h("h3", {}, name, " ", h("span", { class: "method" }, layer.method ?? "")),
      ...(DRAWINGS[name]?.(layer) ?? []),
      facts(layer),
    ),
  );
  const json = h("pre", { class: "code", tabindex: "0" });
  json.textContent = JSON.stringify(decoding, null, 2);
  return h(
    "div",
    { class: "report" },
    ...layers,
    h("details", { class: "raw" }, h("summary", {}, "The report as JSON"), json),
  );
}

const DRAWINGS = { sequence, logits, cache };

function sequence(layer) {
  const nodes = [];
  const engines = Object.keys(layer.tokens ?? {}).sort();
  if (engines.length > 1) {
    const given = engines.map((name) => ({
      name,
      value: layer.tokens[name],
      kind: engineClass(engines, name),
    }));
    nodes.push(parts(given, "tokens"));
  }
  for (const trace of layer.traces ?? []) nodes.push(entropies(layer, trace));
  if (layer.speculative) nodes.push(drafts(layer.speculative));
  if (layer.samples) nodes.push(set(layer));
  if (layer.candidates) nodes.push(candidates(layer.candidates, layer.ranking));
  if (layer.policies)
    nodes.push(
      ...policies(
        layer.policies,
        layer.candidates.map((one) => one.answer ?? one.text),
      ),
    );
  return nodes;
}

/** Entropy by token, the threshold, and which engine wrote. */
function entropies(layer, trace) {
  const engines = [...new Set(trace.segments.map((one) => one.engine))].sort();
  let at = 0;
  const bands = trace.segments.map((one) => {
    const band = { from: at, to: at + one.tokens, kind: engineClass(engines, one.engine) };
    at += one.tokens;
    return band;
  });
  const points = trace.entropies.map((value, index) => [index + 0.5, value]);
  if (!points.length) return null;
  return plot({
    title: `Entropy by token${trace.choice ? `, choice ${trace.choice + 1}` : ""}`,
    lines: [
      { name: "entropy", kind: "series-0", points: [[0, points[0][1]], ...points, [at, points.at(-1)[1]]] },
    ],
    bands,
    rules: [{ at: layer.threshold, name: `threshold ${short(layer.threshold)}` }],
    x: "token",
    y: "bits",
  });
}

function drafts(said) {
  const rows = said.drafted_per_position.map((drafted, index) => {
    const accepted = said.accepted_per_position[index];
    const share = drafted ? accepted / drafted : 0;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, `position ${index + 1}`),
      h("td", {}, bar(share, `${accepted} of ${drafted}`)),
    );
  });
  const accepted = `${said.accepted_tokens} of ${said.drafted_tokens} drafted tokens accepted`;
  const summary = `${accepted}, ${short(said.tokens_per_step)} tokens a step`;
  return h(
    "div",
    { class: "drafts" },
    h("p", { "data-drafts": "" }, summary),
    h("table", { class: "scores" }, h("caption", {}, "Accepted drafts by position"), h("tbody", {}, ...rows)),
  );
}

function logits(layer) {
  if (layer.tokens === undefined) return [];
  const kinds = [
    { name: "guided", value: layer.guided, kind: "engine-0" },
    { name: "unguided", value: layer.tokens - layer.guided, kind: "rest" },
  ];
  return [parts(kinds, "tokens")];
}

function cache(layer) {
  if (layer.kept_slots === undefined) return [];
  const kinds = [
    { name: "kept", value: layer.kept_slots, kind: "engine-0" },
    { name: "freed", value: layer.prompt_tokens - layer.kept_slots, kind: "rest" },
  ];
  const warning = layer.warning ? h("p", { class: "warning", role: "note" }, layer.warning) : null;
  return [parts(kinds, "slots of the prompt"), warning];
}

/** Everything else that the layer says, as it says it. */
function facts(layer) {
  const shown = Object.entries(layer).filter(
    ([name]) => name !== "method" && !DRAWN.includes(name) && name !== "warning",
  );
  if (layer.tokens !== undefined) shown.unshift(["tokens", layer.tokens]);
  const rows = shown.flatMap(([name, value]) => {
    const text = typeof value === "object" && value !== null ? compact(value) : short(value);
    return [h("dt", {}, name), h("dd", { "data-fact": name }, text)];
  });
  return h("dl", { class: "facts" }, ...rows);
}

function compact(value) {
  if (Array.isArray(value))
    return (
      value.map((one) => (typeof one === "object" ? JSON.stringify(one) : short(one))).join(", ") || "none"
    );
  return Object.entries(value)
    .map(([name, one]) => `${name} ${typeof one === "object" ? JSON.stringify(one) : short(one)}`)
    .join(", ");
}
