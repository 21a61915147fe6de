// An answer's tokens: coloured by engine or by how sure the model was, and looked at one by one.

import { h, short } from "./dom.js";

const LEVELS = [0.25, 0.75, 1.5, 3]; // bits: where one shade ends and the next begins
const BITS = Math.LN2;

export const COLOURINGS = {
  none: "plain",
  engine: "by engine",
  entropy: "by entropy",
  surprise: "by surprise",
};

/** One choice's tokens. Text from the stream comes first; what the report knows is added at the end. */
export class Tokens {
  constructor() {
    this.rows = [];
    this.colouring = "none";
    this.text = h("div", {
      class: "tokens",
      tabindex: "0",
      role: "group",
      "aria-label": "Answer, token by token",
    });
    this.detail = h("p", { class: "token-detail", hidden: true });
    this.legend = h("ul", { class: "legend", hidden: true });
    this.decoder = new TextDecoder();
    this.current = -1;
    this.text.addEventListener("pointerover", (event) => this.#look(event.target));
    this.text.addEventListener("click", (event) => this.#look(event.target));
    this.text.addEventListener("keydown", (event) => this.#walk(event));
  }

  /** Adds what a chunk of the stream brought: its text, and its tokens where logprobs were asked for. */
  add(text, logprobs) {
    if (!logprobs?.length) {
      if (text) this.#append({ text });
      return;
    }
    const written = logprobs.map((one) =>
      one.bytes ? this.decoder.decode(Uint8Array.from(one.bytes), { stream: true }) : one.token,
    );
    // Stop strings and special tokens are no part of the text: then the text is what counts.
    const whole = written.join("") === text;
    logprobs.forEach((one, index) => {
      const bits = -one.logprob / BITS;
      this.#append({
        text: whole ? written[index] : index ? "" : text,
        token: one.token,
        bits,
        top: one.top_logprobs,
      });
    });
  }

  get string() {
    return this.text.textContent;
  }

  /**
   * What the report of entropy-adaptive decoding says of each token. Without logprobs there are only chunks of
   * the stream, and what is in each is not known: then there is nothing to say it of.
   */
  traced(trace) {
    const engines = trace.segments.flatMap((one) => Array(one.tokens).fill(one.engine));
    const tokens = this.rows.filter((row) => row.token !== undefined);
    if (!tokens.length || tokens.length > engines.length) return;
    this.engines = [...new Set(trace.segments.map((one) => one.engine))].sort();
    tokens.forEach((row, index) => {
      row.engine = engines[index];
      row.entropy = trace.entropies[index];
      if (row.engine !== undefined) row.node.dataset.engine = row.engine;
      if (row.entropy !== undefined) row.node.dataset.entropy = row.entropy;
    });
    this.trace = trace;
  }

  /** The colourings that there is something to see by. */
  colourings() {
    const known = {
      none: true,
      engine: this.engines,
      entropy: this.trace,
      surprise: this.rows.some((row) => row.bits !== undefined),
    };
    return Object.keys(COLOURINGS).filter((name) => known[name]);
  }

  colour(by) {
    this.colouring = by;
    this.text.dataset.colouring = by;
    for (const row of this.rows) this.#shade(row);
    this.legend.hidden = by === "none";
    this.legend.replaceChildren(...this.#legend(by));
  }

  #append(row) {
    row.node = h("span", { class: "token" });
    row.node.textContent = row.text;
    this.rows.push(row);
    this.text.append(row.node);
    if (this.colouring !== "none") this.#shade(row);
  }

  #shade(row) {
    const value =
      this.colouring === "entropy" ? row.entropy : this.colouring === "surprise" ? row.bits : undefined;
    row.node.classList.remove(
      "level-0",
      "level-1",
      "level-2",
      "level-3",
      "level-4",
      "engine-0",
      "engine-1",
      "engine-2",
    );
    if (value !== undefined) row.node.classList.add(`level-${levelOf(value)}`);
    if (this.colouring === "engine" && row.engine)
      row.node.classList.add(engineClass(this.engines, row.engine));
  }

  #legend(by) {
    if (by === "engine") {
      return this.engines.map((name) => {
        const count = this.rows.filter((row) => row.engine === name).length;
        return h(
          "li",
          {},
          h("span", { class: `swatch ${engineClass(this.engines, name)}` }),
          `${name}: ${count} tokens`,
        );
      });
    }
    const what = by === "entropy" ? "entropy of the model that decoded it" : "−log₂ of its probability";
    const edges = [0, ...LEVELS].map((low, index) =>
      index < LEVELS.length ? `${low}–${LEVELS[index]}` : `over ${low}`,
    );
    return [
      h("li", {}, `bits (${what}):`),
      ...edges.map((text, index) => h("li", {}, h("span", { class: `swatch level-${index}` }), text)),
    ];
  }

  #look(node) {
    const index = this.rows.findIndex((row) => row.node === node);
    if (index >= 0) this.#show(index);
  }

  #walk(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !this.rows.length) return;
    event.preventDefault();
    this.#show(Math.max(0, Math.min(this.rows.length - 1, this.current + step)));
  }

  #show(index) {
    this.rows[this.current]?.node.classList.remove("current");
    this.current = index;
    const row = this.rows[index];
    row.node.classList.add("current");
    const facts = [`token ${index + 1}: ${JSON.stringify(row.text)}`];
    if (row.engine) facts.push(`by ${row.engine}`);
    if (row.entropy !== undefined) facts.push(`entropy ${short(row.entropy)} bits`);
    if (row.bits !== undefined) facts.push(`probability ${short(2 ** -row.bits)}`);
    const others = (row.top ?? []).map(
      (one) => `${JSON.stringify(one.token)} ${short(Math.exp(one.logprob))}`,
    );
    if (others.length) facts.push(`likeliest: ${others.join(", ")}`);
    this.detail.textContent = facts.join(" · ");
    this.detail.hidden = facts.length === 1 && row.token === undefined;
  }
}

export const engineClass = (engines, name) => `engine-${Math.max(0, engines.indexOf(name)) % 3}`;

function levelOf(bits) {
  const level = LEVELS.findIndex((edge) => bits < edge);
  return level < 0 ? LEVELS.length : level;
}
