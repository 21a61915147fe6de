// Elements made from values. Text is only ever set as text: models write HTML too.

const SVG = "http://www.w3.org/2000/svg";

/** An element; attributes that are null, undefined or false are left out, functions become listeners. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "value") element.value = value;
    else if (name === "checked") element.checked = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(
    ...children.flat().filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

let last = 0;

/** An id that no other element has. */
export const unique = (prefix) => `${prefix}-${++last}`;

/** A number as people read it: no more digits than tell it apart. */
export function short(value) {
  if (typeof value !== "number" || Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

/** Runs `act` once calls have ceased for `wait` milliseconds, unless `cancel` comes first. */
export function debounced(act, wait) {
  let timer = 0;
  const call = (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...given), wait);
  };
  call.cancel = () => clearTimeout(timer);
  return call;
}

/** Copies text; where the clipboard is closed to pages (plain http) by the old way. */
export async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = h("textarea", { class: "hidden-visually", value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
