// The inputs of single values. Each has `node`, `focus` (what takes the focus) and `get()`.

import { h, unique } from "./dom.js";
import { slides } from "./schema.js";

const LONG = 1024; // characters from which on a text gets several lines
const WEIGHTS = { min: -2, max: 4, step: 0.1 }; // what the slider of a guide's weight reaches

export function box(fallback) {
  const input = h("input", { type: "checkbox", id: unique("in"), checked: fallback });
  return { node: input, focus: input, get: () => input.checked };
}

/** One of some values; `open` lets none be chosen. */
export function choices(values, fallback, open) {
  const options = values.map((one) => h("option", { value: JSON.stringify(one) }, String(one)));
  if (open) options.unshift(h("option", { value: "" }, "–"));
  const select = h("select", { id: unique("in") }, ...options);
  if (fallback !== undefined && fallback !== null) select.value = JSON.stringify(fallback);
  return { node: select, focus: select, get: () => (select.value ? JSON.parse(select.value) : undefined) };
}

export function text(schema, fallback) {
  const long = (schema.maxLength ?? 0) >= LONG;
  const attributes = { id: unique("in"), value: fallback ?? "", autocomplete: "off", spellcheck: "false" };
  const input = long
    ? h("textarea", { ...attributes, rows: 2 })
    : h("input", { ...attributes, type: "text" });
  let touched = Boolean(fallback);
  input.addEventListener("input", () => (touched = true));
  // An empty text is a value where it was written, and left out where nobody touched it.
  const isEmpty = () => input.value === "" && (!touched || !("default" in schema) || schema.default === null);
  return { node: input, focus: input, get: () => (isEmpty() ? undefined : input.value) };
}

export function number(schema, fallback) {
  const step = schema.type === "integer" ? 1 : "any";
  const input = h("input", {
    type: "number",
    id: unique("in"),
    step,
    inputmode: schema.type === "integer" ? "numeric" : "decimal",
    value: fallback ?? "",
  });
  const get = () => (input.value === "" ? undefined : Number(input.value));
  if (!slides(schema)) return { node: input, focus: input, get };
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const high = schema.maximum ?? schema.exclusiveMaximum;
  const slider = h("input", { type: "range", min: low, max: high, step: 0.01, value: fallback ?? low });
  paired(slider, input);
  return { node: h("div", { class: "paired" }, slider, input), focus: input, get };
}

/** A slider beside a number: each follows the other. The number is what counts, and what is labelled. */
function paired(slider, input) {
  slider.setAttribute("aria-label", "slider");
  slider.setAttribute("tabindex", "-1"); // the number beside it can be typed and stepped
  slider.addEventListener("input", () => (input.value = slider.value));
  input.addEventListener("input", () => (slider.value = input.value));
}

/** A list: boxes where the server knows the names, else what is separated by commas. */
export function list(inner, names, fallback, label) {
  if (names) {
    const boxes = names.map((name) => [name, h("input", { type: "checkbox", id: unique("in") })]);
    const labels = unique("label");
    const node = h(
      "div",
      { class: "boxes", role: "group", tabindex: "-1", "aria-labelledby": labels },
      ...boxes.map(([name, one]) => h("span", {}, one, h("label", { for: one.id }, name))),
    );
    return {
      node,
      focus: node,
      labels,
      get: () => boxes.filter(([, one]) => one.checked).map(([name]) => name),
    };
  }
  const written = (fallback ?? []).join(", ");
  const input = h("input", { type: "text", id: unique("in"), value: written, "aria-label": label });
  const parse = (part) => (inner.type === "string" || Number.isNaN(Number(part)) ? part : Number(part));
  const get = () => {
    const parts = input.value
      .split(",")
      .map((part) => part.trim())
      .filter(Boolean);
    return parts.length ? parts.map(parse) : undefined;
  };
  return { node: input, focus: input, get };
}

/** Numbers by name: a slider for each name that the server knows, else rows of name and number. */
export function map(inner, names, path, places, live) {
  if (!names) return rows(inner);
  const labels = unique("label");
  const given = names.map((name, index) => {
    const value = index === 0 ? 1 : 0; // so that something is guided at once
    const input = h("input", { type: "number", step: "any", id: unique("in"), value });
    const slider = h("input", { type: "range", ...WEIGHTS, value, "data-live": live });
    if (live) input.setAttribute("data-live", "");
    const row = h("div", { class: "weight" }, h("label", { for: input.id }, name), slider, input);
    paired(slider, input);
    slider.setAttribute("aria-label", `${name}, slider`);
    slider.removeAttribute("tabindex");
    return { name, input, node: h("div", {}, row, places.slot(`${path}.${name}`, input)) };
  });
  const node = h(
    "div",
    { class: "weights", role: "group", tabindex: "-1", "aria-labelledby": labels },
    ...given.map((one) => one.node),
  );
  const get = () => {
    const set = given.filter((one) => one.input.value !== "" && Number(one.input.value) !== 0);
    return Object.fromEntries(set.map((one) => [one.name, Number(one.input.value)]));
  };
  return { node, focus: node, labels, get };
}

function rows(inner) {
  const body = h("div", { class: "rows" });
  const add = () => {
    const name = h("input", { type: "text", "aria-label": "name" });
    const value = h("input", {
      type: inner.type === "string" ? "text" : "number",
      step: "any",
      "aria-label": "value",
    });
    const remove = h("button", { type: "button", class: "quiet", click: () => row.remove() }, "Remove");
    const row = h("div", { class: "row" }, name, value, remove);
    body.append(row);
    name.focus();
  };
  const button = h("button", { type: "button", class: "quiet", id: unique("in"), click: add }, "Add");
  const get = () => {
    const pairs = [...body.children].map((row) => [row.children[0].value, row.children[1].value]);
    const named = pairs.filter(([name]) => name);
    const read = (value) => (inner.type === "string" ? value : Number(value));
    return named.length ? Object.fromEntries(named.map(([name, value]) => [name, read(value)])) : undefined;
  };
  return { node: h("div", {}, body, button), focus: button, get };
}
