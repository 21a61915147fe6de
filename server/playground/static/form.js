// A form made from a JSON schema. What is left as it came is not sent: the server's defaults hold.

import { h, unique } from "./dom.js";
import { box, choices, list, map, number, text } from "./inputs.js";
import { analysed, bounds, same } from "./schema.js";

/**
 * The control of one value: `node` to show, `get()` for the value, undefined where it is left out.
 *
 * context: `root` (the document that $refs point into), `names` (what the server has, by kind), `places`,
 * `initial` (values by path that differ from the schema's defaults).
 */
export function control(name, given, path, required, context) {
  const field = analysed(given, context.root);
  const fallback = context.initial?.[path] ?? field.schema.default;
  if (field.kind === "const") return { node: null, get: () => field.schema.const };
  if (field.nullable && (field.kind === "object" || field.kind === "choice")) {
    return optional(name, field, path, context);
  }
  if (field.kind === "object") return group(name, field, path, required, context);
  if (field.kind === "choice") return choice(name, field, path, required, fallback, context);
  return leaf(name, field, path, required, fallback, context);
}

/** The controls of an object's properties, and the object. */
export function properties(schema, path, context) {
  const required = new Set(schema.required ?? []);
  const controls = Object.entries(schema.properties).map(([name, one]) => [
    name,
    required.has(name),
    control(name, one, path ? `${path}.${name}` : name, required.has(name), context),
  ]);
  controls.sort((a, b) => b[1] - a[1]); // what must be given comes first
  return {
    nodes: controls.map(([, , one]) => one.node).filter(Boolean),
    get() {
      const pairs = controls.map(([name, , one]) => [name, one.get()]);
      return Object.fromEntries(pairs.filter(([, value]) => value !== undefined));
    },
  };
}

function leaf(name, field, path, required, fallback, context) {
  const input = inputFor(name, field, path, fallback, context);
  const hint = hintOf(field);
  const hintId = unique("hint");
  const slot = context.places.slot(path, input.focus, hint ? hintId : "");
  const label = input.labels
    ? h("span", { class: "label", id: input.labels }, name)
    : h("label", { for: input.focus.id }, name);
  const mark = required ? h("span", { class: "required" }, "required") : null;
  const node = h(
    "div",
    { class: `field ${field.kind}`, "data-path": path },
    h("div", { class: "name" }, label, mark),
    input.node,
    hint ? h("p", { class: "hint", id: hintId }, hint) : null,
    slot,
  );
  return {
    node,
    get() {
      const value = input.get();
      if (value === undefined || required) return value;
      return same(value, field.schema.default) ? undefined : value;
    },
  };
}

function inputFor(name, field, path, fallback, context) {
  const { kind, schema } = field;
  const names = context.names[schema["x-names"]];
  if (kind === "boolean") return box(fallback ?? false);
  if (kind === "enum") return choices(schema.enum, fallback, field.nullable);
  if (kind === "number") return number(schema, fallback);
  if (kind === "map") {
    const keys = analysed(schema.propertyNames ?? {}, context.root).schema["x-names"];
    const inner = analysed(schema.additionalProperties, context.root).schema;
    return map(inner, context.names[keys], path, context.places, keys === "guides" && name === "weights");
  }
  if (kind === "list") {
    const inner = analysed(schema.items ?? {}, context.root).schema;
    return list(inner, context.names[inner["x-names"]], fallback, name);
  }
  if (names) return choices(names, fallback, true);
  return text(schema, fallback);
}

function hintOf({ kind, schema, nullable }) {
  const parts = [schema.description];
  if (kind === "number") parts.push(bounds(schema));
  if (nullable && kind !== "enum" && !schema.description?.includes("left out")) parts.push("may be left out");
  return parts.filter(Boolean).join(" · ");
}

function group(name, field, path, required, context) {
  const inner = properties(field.schema, path, context);
  const summary = h("summary", {}, name);
  const slot = context.places.slot(path, summary);
  const hint = field.schema.description ? h("p", { class: "hint" }, field.schema.description) : null;
  const node = h("details", { class: "group", "data-path": path }, summary, hint, slot, ...inner.nodes);
  return {
    node,
    get() {
      const value = inner.get();
      return required || Object.keys(value).length ? value : undefined;
    },
  };
}

/** An object that may be null: a box says whether it is given. */
function optional(name, field, path, context) {
  const toggle = h("input", { type: "checkbox", id: unique("given") });
  const body = h("div", { class: "inner", hidden: true });
  const slot = context.places.slot(path, toggle);
  const hint = field.schema.description ? h("p", { class: "hint" }, field.schema.description) : null;
  let inner = null;
  toggle.addEventListener("change", () => {
    inner = null;
    context.places.forget(path);
    if (toggle.checked) {
      inner =
        field.kind === "object"
          ? properties(field.schema, path, context)
          : choice(name, field, path, true, undefined, context);
      body.replaceChildren(...(inner.nodes ?? [inner.node]));
    } else body.replaceChildren();
    body.hidden = !toggle.checked;
  });
  const node = h(
    "div",
    { class: "field optional", "data-path": path },
    h("div", { class: "name" }, toggle, h("label", { for: toggle.id }, name)),
    hint,
    slot,
    body,
  );
  return { node, get: () => inner?.get() };
}

/** One of several schemas: told apart by a property, or by what the value is. */
function choice(name, field, path, required, fallback, context) {
  const labels = field.branches.map((one) => labelOf(one, field.tag));
  const fitting = (one) => fallback !== undefined && fits(one, field.tag, fallback);
  const given = Math.max(0, field.branches.findIndex(fitting));
  const select = choices(labels, labels[given], false);
  const hintId = unique("hint");
  const hint = field.schema.description ?? "";
  const body = h("div", { class: "inner" });
  const slot = context.places.slot(path, select.focus, hint ? hintId : "");
  let inner = null;
  const build = () => {
    context.places.forget(path);
    const branch = field.branches[labels.indexOf(select.get())];
    inner = branch.properties
      ? properties(branch, path, context)
      : control(labelOf(branch), branch, `${path}.${labelOf(branch)}`, true, context);
    const nodes = inner.nodes ?? (inner.node ? [inner.node] : []);
    body.replaceChildren(...nodes);
    body.hidden = nodes.length === 0;
  };
  select.focus.addEventListener("change", build);
  build();
  const node = h(
    "div",
    { class: "field choice", "data-path": path },
    h(
      "div",
      { class: "name" },
      h("label", { for: select.focus.id }, name),
      required ? h("span", { class: "required" }, "required") : null,
    ),
    select.node,
    hint ? h("p", { class: "hint", id: hintId }, hint) : null,
    slot,
    body,
  );
  return {
    node,
    get() {
      const value = inner.get();
      return !required && same(value, field.schema.default) ? undefined : value;
    },
  };
}

function labelOf(branch, tag) {
  if (tag) return String(branch.properties[tag].const);
  return "const" in branch ? String(branch.const) : (branch.title ?? branch.type ?? "value");
}

function fits(branch, tag, value) {
  if (tag) return branch.properties[tag].const === value[tag];
  if ("const" in branch) return branch.const === value;
  return branch.type === typeof value;
}
