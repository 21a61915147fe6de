// The ranking of candidates of one's own: /v1/rank.

import { ApiError, get, post } from "./api.js";
import { candidates, policies } from "./candidates.js";
import { curl, panel, pythonRank } from "./code.js";
import { h, short, unique } from "./dom.js";
import { properties } from "./form.js";
import { Methods } from "./methods.js";
import { Places } from "./places.js";

const FIELDS = [
  "ranking",
  "engine",
  "iterations",
  "eta",
  "lam",
  "by_token",
  "end",
  "trajectory",
  "templates",
];
const PATH = "v1/rank";

export class Rank {
  constructor(root) {
    this.root = root;
    root.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && this.button) {
        event.preventDefault();
        this.run();
      }
    });
  }

  /** The form, made from the server's own description of the request. */
  async load({ models, listed }) {
    const api = await get("openapi.json");
    const schema = api.components.schemas.RankRequest;
    const own = Object.fromEntries(
      FIELDS.filter((name) => name in schema.properties).map((name) => [name, schema.properties[name]]),
    );
    this.places = new Places();
    const context = {
      root: api,
      names: { engines: Object.keys(listed.engines) },
      places: this.places,
      initial: { trajectory: true },
    };
    this.parameters = properties({ properties: own }, "", context);
    this.methods = new Methods(listed, this.places, ["logits"]);
    this.#build(models);
  }

  #build(models) {
    this.model = h(
      "select",
      { id: unique("model") },
      ...models.map((one) => h("option", { value: one.id }, one.id)),
    );
    this.question = h("textarea", { id: unique("question"), rows: 3, "data-field": "question" });
    this.rows = h("ol", { class: "given" });
    for (let count = 0; count < 2; count++) this.#add();
    const more = h(
      "button",
      { type: "button", class: "quiet", click: () => this.#add(true) },
      "Add a candidate",
    );
    this.button = h("button", { type: "button", class: "primary", click: () => this.run() }, "Rank");
    this.alert = h("p", { class: "alert", role: "alert", hidden: true });
    this.result = h("div", { class: "ranking", "aria-live": "polite" });
    this.code = panel(() => ({ curl: curl(PATH, this.body()), python: pythonRank(this.body()) }));
    const form = h(
      "form",
      {
        class: "form",
        submit: (event) => event.preventDefault(),
        input: () => this.code.refresh(),
        change: () => this.code.refresh(),
      },
      this.#field("question", this.question, "prompt"),
      h("fieldset", { class: "field", tabindex: "-1" }, h("legend", {}, "candidates"), this.rows, more),
      this.#field("model", this.model, "model"),
      ...this.parameters.nodes,
      this.methods.node,
    );
    const fieldset = form.querySelector("fieldset");
    fieldset.append(this.places.slot("candidates", fieldset));
    this.root.replaceChildren(
      h(
        "details",
        { class: "settings", open: true },
        h("summary", {}, h("h2", { class: "pane-title" }, "What to rank")),
        form,
      ),
      h(
        "div",
        { class: "conversation" },
        h("div", { class: "actions" }, this.button, h("span", { class: "hint" }, "Ctrl+Enter")),
        this.alert,
        this.result,
        this.code.node,
      ),
    );
  }

  #field(name, input, path) {
    return h(
      "div",
      { class: "field" },
      h("label", { for: input.id }, name),
      input,
      this.places.slot(path, input),
    );
  }

  #add(focus = false) {
    const number = this.rows.children.length + 1;
    const input = h("input", {
      type: "text",
      "aria-label": `Candidate ${number}`,
      "data-field": "candidate",
    });
    const remove = h(
      "button",
      {
        type: "button",
        class: "quiet",
        "aria-label": `Remove candidate ${number}`,
        click: () => row.remove(),
      },
      "×",
    );
    const row = h("li", {}, input, remove);
    this.rows.append(row);
    if (focus) input.focus();
  }

  body() {
    const given = [...this.rows.querySelectorAll("input")].map((one) => one.value).filter(Boolean);
    const decoding = this.methods.get();
    return {
      model: this.model.value,
      prompt: this.question.value,
      candidates: given,
      ...this.parameters.get(),
      ...(decoding ? { decoding } : {}),
    };
  }

  async run() {
    this.controller?.abort();
    const controller = new AbortController();
    this.controller = controller;
    this.places.clear();
    this.alert.hidden = true;
    this.result.setAttribute("aria-busy", "true");
    try {
      this.#show(await post(PATH, this.body(), controller.signal));
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof ApiError)) throw error;
      this.places.show(error.param, error.message);
      this.alert.textContent = error.message;
      this.alert.hidden = false;
    } finally {
      if (this.controller === controller) this.result.setAttribute("aria-busy", "false");
    }
  }

  #show(said) {
    const { usage } = said;
    const tokens = `${usage.computed_tokens} tokens computed, ${usage.cached_tokens} found in the prefix cache`;
    const spent = `${tokens} · ${said.iterations} rounds · by ${said.ranking}`;
    const logprobs = said.results.map((one) =>
      h(
        "tr",
        {},
        h("th", { scope: "row", class: "text" }, one.text),
        ...["correct", "incorrect", "yes", "no"].map((name) =>
          h("td", { "data-logprob": name }, short(one.logprobs[name])),
        ),
      ),
    );
    const head = ["candidate", "correct", "incorrect", "yes", "no"].map((text) =>
      h("th", { scope: "col" }, text),
    );
    this.result.replaceChildren(
      h("p", { class: "figures" }, spent),
      candidates(said.results, said.ranking),
      ...(said.policies
        ? policies(
            said.policies,
            said.results.map((one) => one.text),
          )
        : []),
      h(
        "details",
        {},
        h("summary", {}, "The log-probabilities they come from"),
        h(
          "table",
          { class: "scores" },
          h("caption", {}, "Natural logarithms"),
          h("thead", {}, h("tr", {}, ...head)),
          h("tbody", {}, ...logprobs),
        ),
      ),
    );
  }
}
