// One setting and its conversation: what is asked for, the answers, and what happened.

import { ApiError, stream } from "./api.js";
import { Answer } from "./answer.js";
import { curl, panel, python } from "./code.js";
import { debounced, h, unique } from "./dom.js";
import { properties } from "./form.js";
import { Methods } from "./methods.js";
import { Places } from "./places.js";

const PATH = "v1/chat/completions";
const REST = 300; // ms after the last move of a slider until the answer is asked for anew
const LONG = 300; // characters from which on a question may have to be scrolled
const SAMPLING = {
  properties: {
    temperature: { type: "number", description: "0 is greedy; empty: the model's own", minimum: 0 },
    max_tokens: { type: "integer", description: "longest answer, in tokens", minimum: 1 },
    seed: { type: "integer", description: "the same seed, the same answer" },
    top_logprobs: {
      type: "integer",
      description: "likeliest tokens to show at each; empty: none",
      minimum: 0,
    },
  },
};
const INITIAL = { temperature: 0.7, max_tokens: 256, top_logprobs: 5 };

export class Pane {
  /** facts: {models, listed}, answers of the API. like: a pane whose sampling this one begins with. */
  constructor(name, facts, like = null) {
    this.name = name;
    this.models = facts.models;
    this.places = new Places();
    this.turns = [];
    this.colouring = null;
    this.code = panel(() => {
      const body = this.body(this.#messages("…"));
      return { curl: curl(PATH, body), python: python(body) };
    });
    this.methods = new Methods(facts.listed, this.places);
    this.log = h("div", {
      class: "log",
      role: "log",
      "aria-live": "polite",
      "aria-label": `Conversation ${name}`,
    });
    this.alert = h("p", { class: "alert", role: "alert", hidden: true });
    this.settings = this.#settings(like);
    const title = h("h2", { class: "pane-title" }, `Setting ${name}`);
    this.node = h(
      "section",
      { class: "pane", "data-pane": name, "aria-label": `Setting ${name}` },
      h("details", { class: "settings", open: true }, h("summary", {}, title), this.settings),
      h("div", { class: "conversation" }, this.log, this.alert, this.code.node),
    );
    this.later = debounced(() => this.again(), REST);
    this.settings.addEventListener("input", (event) => {
      this.code.refresh();
      if (event.target.hasAttribute("data-live") && this.live.checked) this.later();
    });
    this.settings.addEventListener("change", () => this.code.refresh());
  }

  get running() {
    return this.controller !== undefined;
  }

  stop() {
    this.controller?.abort();
  }

  clear() {
    this.later.cancel();
    this.stop();
    this.turns = [];
    this.log.replaceChildren();
    this.alert.hidden = true;
  }

  /** The request for these messages. */
  body(messages) {
    const { top_logprobs, ...sampling } = this.sampling.get();
    const tokens = top_logprobs ? { logprobs: true, top_logprobs } : {};
    const decoding = { ...this.methods.get(), report: true };
    return {
      model: this.model.value,
      messages,
      ...sampling,
      ...tokens,
      stream: true,
      stream_options: { include_usage: true },
      decoding,
    };
  }

  /** Asks; true if it was answered, or stopped. */
  async run(text) {
    this.later.cancel(); // this asks with what was just set
    this.stop();
    const turn = { text, answer: new Answer(this.#label(), this) };
    turn.node = h(
      "article",
      { class: "turn" },
      h("p", { class: "said", tabindex: text.length > LONG ? "0" : null }, text),
      turn.answer.node,
    );
    this.turns.push(turn);
    this.log.append(turn.node);
    turn.node.scrollIntoView({ block: "start" });
    return this.#ask(turn, true);
  }

  /** Asks the last question anew; what is being written to it ends. */
  async again() {
    const turn = this.turns.at(-1);
    if (!turn) return;
    this.stop();
    const answer = new Answer(this.#label(), this);
    turn.answer.node.replaceWith(answer.node);
    turn.answer = answer;
    await this.#ask(turn, false);
  }

  async #ask(turn, focus) {
    const controller = new AbortController();
    this.controller = controller;
    const { answer } = turn;
    this.places.clear();
    this.alert.hidden = true;
    this.log.setAttribute("aria-busy", "true");
    this.node.dispatchEvent(new CustomEvent("running", { bubbles: true }));
    try {
      answer.begin();
      for await (const event of stream(PATH, this.body(this.#messages()), controller.signal))
        answer.take(event);
      answer.finish();
      return true;
    } catch (error) {
      if (error.name === "AbortError") {
        answer.stopped();
        return true;
      }
      if (!(error instanceof ApiError)) throw error;
      this.#failed(turn, error, focus);
      return false;
    } finally {
      if (this.controller === controller) {
        this.controller = undefined;
        this.log.setAttribute("aria-busy", "false");
      }
      this.node.dispatchEvent(new CustomEvent("running", { bubbles: true }));
    }
  }

  #failed(turn, error, focus) {
    if (turn.answer.tokens.rows.length) turn.answer.failed(error.message);
    else if (focus) {
      this.turns = this.turns.filter((one) => one !== turn);
      turn.node.remove();
    } else turn.answer.failed("");
    const at = this.places.show(error.param, error.message, focus);
    this.alert.textContent = at ? `${error.message} (see the field ${error.param})` : error.message;
    this.alert.hidden = false;
  }

  #messages(next = null) {
    const messages = this.system.value.trim() ? [{ role: "system", content: this.system.value }] : [];
    this.turns.forEach((turn, index) => {
      messages.push({ role: "user", content: turn.text });
      if (next !== null || index < this.turns.length - 1)
        messages.push({ role: "assistant", content: turn.answer.tokens.string });
    });
    if (next !== null) messages.push({ role: "user", content: next });
    return messages;
  }

  #label() {
    const chosen = Object.values(this.methods.get() ?? {}).map((one) => one.method);
    return [this.model.value, ...chosen].join(" + ");
  }

  #settings(like) {
    const initial = like ? like.sampling.get() : INITIAL;
    this.sampling = properties(SAMPLING, "", { root: SAMPLING, names: {}, places: this.places, initial });
    this.model = h(
      "select",
      { id: unique("model"), "data-field": "model", change: () => this.#chosen() },
      ...this.models.map((one) => h("option", { value: one.id }, one.id)),
    );
    this.about = h("p", { class: "hint", id: unique("hint") });
    this.system = h("textarea", { id: unique("system"), rows: 2, "data-field": "system" });
    if (like) this.system.value = like.system.value;
    this.live = h("input", { type: "checkbox", id: unique("live"), checked: true });
    const form = h(
      "form",
      { class: "form", submit: (event) => event.preventDefault() },
      h(
        "div",
        { class: "field" },
        h("label", { for: this.model.id }, "model"),
        this.model,
        this.about,
        this.places.slot("model", this.model, this.about.id),
      ),
      h(
        "div",
        { class: "field" },
        h("label", { for: this.system.id }, "system prompt"),
        this.system,
        this.places.slot("messages", this.system),
      ),
      h("div", { class: "sampling" }, ...this.sampling.nodes),
      this.methods.node,
      h(
        "div",
        { class: "field check" },
        this.live,
        h("label", { for: this.live.id }, "ask anew while guide weights are moved"),
      ),
    );
    this.#chosen();
    return form;
  }

  #chosen() {
    const card = this.models.find((one) => one.id === this.model.value);
    this.about.textContent = card?.description ?? "";
    this.methods.preset(card?.decoding);
  }
}
