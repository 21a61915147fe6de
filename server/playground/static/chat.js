// The chat: one pane or two side by side, and the prompt that all of them get at the same time.

import { Pane } from "./pane.js";

export class Chat {
  constructor(root) {
    const part = (name) => document.getElementById(name);
    this.panes = part("panes");
    this.prompt = part("prompt");
    this.runButton = part("run");
    this.stopButton = part("stop");
    this.compare = part("compare");
    this.shown = [];
    this.runButton.addEventListener("click", () => this.run());
    this.stopButton.addEventListener("click", () => this.stop());
    part("clear").addEventListener("click", () => this.shown.forEach((pane) => pane.clear()));
    this.compare.addEventListener("change", () => this.#arrange());
    root.addEventListener("running", () => this.#state());
    root.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        this.run();
      } else if (event.key === "Escape") this.stop();
    });
    this.#state();
  }

  /** Begins anew with what a server says of itself. */
  load(facts) {
    this.stop();
    this.facts = facts;
    this.shown = [new Pane("A", facts)];
    this.#arrange();
  }

  async run() {
    const text = this.prompt.value;
    if (!text.trim() || !this.shown.length) {
      this.prompt.focus();
      return;
    }
    this.prompt.value = "";
    const answered = await Promise.all(this.shown.map((pane) => pane.run(text)));
    if (!answered.includes(true) && !this.prompt.value) this.prompt.value = text;
  }

  stop() {
    for (const pane of this.shown) pane.stop();
  }

  #arrange() {
    if (!this.facts) return;
    if (this.compare.checked && this.shown.length === 1)
      this.shown.push(new Pane("B", this.facts, this.shown[0]));
    if (!this.compare.checked) this.shown.splice(1).forEach((pane) => pane.stop());
    this.panes.dataset.count = String(this.shown.length);
    const stale = [...this.panes.children].filter((node) => !this.shown.some((pane) => pane.node === node));
    stale.forEach((node) => node.remove());
    for (const pane of this.shown) if (!pane.node.isConnected) this.panes.append(pane.node);
    this.#state();
  }

  #state() {
    const running = this.shown.some((pane) => pane.running);
    this.stopButton.disabled = !running;
    this.runButton.disabled = !this.shown.length;
  }
}
