// Where an error of the API belongs: the field that its `param` names.

import { h, unique } from "./dom.js";

/** The fields of one form by the path that the API knows them by. */
export class Places {
  #fields = new Map();

  /** Makes the place for a field's errors; `input` is what gets the focus. */
  slot(path, input, describedBy = "") {
    const id = unique("error");
    const node = h("p", { class: "error", id, hidden: true, "data-error": path });
    const described = [describedBy, id].filter(Boolean).join(" ");
    input.setAttribute("aria-describedby", described);
    this.#fields.set(path, { input, node });
    return node;
  }

  /** Forgets the fields below a path: their part of the form is being replaced. */
  forget(path) {
    for (const known of [...this.#fields.keys()]) {
      if (known.startsWith(`${path}.`)) this.#fields.delete(known);
    }
  }

  clear() {
    for (const { input, node } of this.#fields.values()) {
      input.removeAttribute("aria-invalid");
      node.hidden = true;
      node.textContent = "";
    }
  }

  /** Shows a message at the field that `param` names, or the one that holds it; false if there is none. */
  show(param, message, focus = true) {
    for (let path = param ?? ""; path; path = path.slice(0, Math.max(0, path.lastIndexOf(".")))) {
      const field = this.#fields.get(path);
      if (!field) continue;
      field.input.setAttribute("aria-invalid", "true");
      field.node.textContent = message;
      field.node.hidden = false;
      for (let up = field.node.parentElement; up; up = up.parentElement) {
        if (up.tagName === "DETAILS") up.open = true;
      }
      if (focus) field.input.focus();
      return true;
    }
    return false;
  }
}
