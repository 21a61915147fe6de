// The three layers of `decoding`: for each the choice of a method, and the form of its parameters.

import { h, unique } from "./dom.js";
import { properties } from "./form.js";

export const LAYERS = ["sequence", "logits", "cache"];
const QUESTIONS = {
  sequence: "How are answers produced and chosen?",
  logits: "What is the next-token distribution?",
  cache: "What of the context is kept?",
};
// Switched on here, so that there is something to see: the reports are asked for as well.
const SHOWN = ["trace", "trajectory"];

/** The layers' part of a form. `listed` is the answer of /v1/decoding/methods. */
export class Methods {
  constructor(listed, places, layers = LAYERS) {
    this.listed = listed;
    this.places = places;
    this.parts = Object.fromEntries(layers.map((layer) => [layer, this.#layer(layer)]));
    this.node = h("div", { class: "layers" }, ...layers.map((layer) => this.parts[layer].node));
  }

  /** Says what the chosen model's preset does in the layers that this form leaves alone. */
  preset(decoding) {
    for (const [layer, part] of Object.entries(this.parts)) {
      const method = decoding?.[layer]?.method;
      part.none.textContent = method ? `as the preset: ${method}` : "none";
    }
  }

  /** The `decoding` object without its report; undefined where no layer has a method. */
  get() {
    const chosen = Object.entries(this.parts).map(([layer, part]) => [layer, part.get()]);
    const given = chosen.filter(([, value]) => value !== undefined);
    return given.length ? Object.fromEntries(given) : undefined;
  }

  #layer(layer) {
    const methods = this.listed.layers[layer] ?? [];
    const offered = methods.filter((one) => one.offered);
    const refused = methods.filter((one) => !one.offered);
    const none = h("option", { value: "" }, "none");
    const select = h(
      "select",
      { id: unique(layer), "data-layer": layer },
      none,
      ...offered.map((one) => h("option", { value: one.method }, one.method)),
      ...refused.map((one) =>
        h("option", { value: one.method, disabled: true }, `${one.method} (not offered)`),
      ),
    );
    const hintId = unique("hint");
    const slot = this.places.slot(`decoding.${layer}.method`, select, hintId);
    const body = h("div", { class: "parameters" });
    const part = { none, get: () => undefined };
    select.addEventListener("change", () => this.#choose(layer, methods, select.value, body, part));
    part.node = h(
      "section",
      { class: "layer", "data-layer": layer },
      h("label", { for: select.id, class: "layer-name" }, layer),
      h("span", { class: "hint", id: hintId }, QUESTIONS[layer]),
      select,
      slot,
      body,
      refused.length ? notOffered(refused) : null,
    );
    return part;
  }

  #choose(layer, methods, name, body, part) {
    const path = `decoding.${layer}`;
    this.places.forget(path);
    const select = part.node.querySelector("select");
    const method = methods.find((one) => one.method === name);
    if (!method) {
      part.get = () => undefined;
      body.replaceChildren();
    } else {
      const form = properties(method.schema, path, this.#context(method, path));
      part.get = form.get;
      body.replaceChildren(about(method), ...form.nodes);
    }
    const old = part.node.querySelector(`[data-error="${path}.method"]`);
    old.replaceWith(this.places.slot(`${path}.method`, select));
  }

  #context(method, path) {
    const engines = Object.entries(this.listed.engines);
    const guides = [...new Set(engines.flatMap(([, facts]) => facts.guides))];
    const initial = Object.fromEntries(
      SHOWN.filter((name) => name in method.schema.properties).map((name) => [`${path}.${name}`, true]),
    );
    const names = { engines: engines.map(([name]) => name), guides };
    return { root: method.schema, names, places: this.places, initial };
  }
}

function about(method) {
  const link = method.paper
    ? h("a", { href: method.paper, target: "_blank", rel: "noreferrer noopener" }, "paper")
    : null;
  return h("p", { class: "summary" }, method.summary, " ", link);
}

function notOffered(methods) {
  const rows = methods.flatMap((one) => [h("dt", {}, one.method), h("dd", {}, one.reason)]);
  return h(
    "details",
    { class: "refused" },
    h("summary", {}, `${methods.length} not offered here`),
    h("dl", {}, ...rows),
  );
}
