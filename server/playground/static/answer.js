// One answer while it is written and after: tokens, figures, report.

import { h, short } from "./dom.js";
import { report } from "./report.js";
import { COLOURINGS, Tokens } from "./tokens.js";

export class Answer {
  /** label: what answers. owner: remembers the colouring from answer to answer. */
  constructor(label, owner) {
    this.owner = owner;
    this.tokens = new Tokens();
    this.figures = h("p", { class: "figures" });
    this.tools = h("div", { class: "tools" });
    this.after = h("div", { class: "after" });
    this.node = h(
      "div",
      { class: "answer", "data-state": "waiting" },
      h("p", { class: "by" }, label),
      this.tokens.text,
      this.tokens.detail,
      this.tokens.legend,
      h("div", { class: "foot" }, this.tools, this.figures),
      this.after,
    );
  }

  begin() {
    this.started = performance.now();
    this.node.dataset.state = "writing";
  }

  take(event) {
    this.model = event.model ?? this.model;
    for (const choice of event.choices ?? []) {
      const text = choice.delta?.content ?? "";
      if (text && this.first === undefined) this.first = performance.now();
      this.tokens.add(text, choice.logprobs?.content);
      this.reason = choice.finish_reason ?? this.reason;
    }
    this.usage = event.usage ?? this.usage;
    this.decoding = event.decoding ?? this.decoding;
  }

  finish() {
    this.node.dataset.state = "done";
    const trace = this.decoding?.sequence?.traces?.[0];
    if (trace) this.tokens.traced(trace);
    this.#figures();
    this.#tools();
    if (this.decoding)
      this.after.replaceChildren(
        h(
          "details",
          { class: "happened", open: true },
          h("summary", {}, "What happened"),
          report(this.decoding),
        ),
      );
  }

  stopped() {
    this.node.dataset.state = "stopped";
    this.figures.textContent = "stopped";
    this.#tools();
  }

  failed(message) {
    this.node.dataset.state = "failed";
    this.figures.textContent = message;
  }

  #figures() {
    const parts = [];
    const seconds = (performance.now() - this.started) / 1000;
    if (this.usage) {
      parts.push(`${this.usage.prompt_tokens} prompt + ${this.usage.completion_tokens} answer tokens`);
      if (this.usage.scoring_tokens) parts.push(`${this.usage.scoring_tokens} to score`);
    }
    if (this.first !== undefined) parts.push(`first after ${Math.round(this.first - this.started)} ms`);
    parts.push(`${short(Number(seconds.toFixed(2)))} s`);
    if (this.reason) parts.push(`ended by ${this.reason}`);
    this.figures.textContent = parts.join(" · ");
  }

  #tools() {
    const names = this.tokens.colourings();
    const wished = this.owner.colouring ?? (names.includes("engine") ? "engine" : "none");
    const chosen = names.includes(wished) ? wished : "none";
    this.tokens.colour(chosen);
    if (names.length < 2) return;
    const buttons = names.map((name) =>
      h(
        "button",
        {
          type: "button",
          "data-colour": name,
          "aria-pressed": String(name === chosen),
          click: () => this.#colour(name),
        },
        COLOURINGS[name],
      ),
    );
    this.tools.replaceChildren(
      h("div", { class: "segmented", role: "group", "aria-label": "Colour tokens" }, ...buttons),
    );
  }

  #colour(name) {
    this.owner.colouring = name;
    this.tokens.colour(name);
    for (const button of this.tools.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.colour === name));
    }
  }
}
