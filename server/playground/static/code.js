// A request as code: for a shell, and for Python with the openai client.

import { copy, h } from "./dom.js";

const OPENAI = new Set([
  "model",
  "messages",
  "temperature",
  "max_tokens",
  "seed",
  "stream",
  "stream_options",
  "logprobs",
  "top_logprobs",
]);

const base = () => new URL(".", document.baseURI).href.replace(/\/$/, "");

/** `curl` for a path and body. The key is taken from the environment: code is passed on. */
export function curl(path, body) {
  const text = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  const stream = body.stream ? "-N " : "";
  return [
    `curl ${stream}${base()}/${path} \\`,
    `  -H "Authorization: Bearer $DECANT_API_KEY" \\`,
    `  -H 'Content-Type: application/json' \\`,
    `  -d '${text}'`,
  ].join("\n");
}

/** The same for the openai client; what it does not know goes into extra_body. */
export function python(body) {
  const known = Object.entries(body).filter(([name]) => OPENAI.has(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !OPENAI.has(name)));
  const lines = known.map(([name, value]) => `    ${name}=${literal(value, 4)},`);
  if (Object.keys(extra).length) lines.push(`    extra_body=${literal(extra, 4)},`);
  const head = [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${base()}/v1", api_key=os.environ.get("DECANT_API_KEY", "none"))`,
    "answer = client.chat.completions.create(",
  ];
  const tail = body.stream
    ? [
        ")",
        "for event in answer:",
        "    for choice in event.choices:",
        '        print(choice.delta.content or "", end="", flush=True)',
        '    if (event.model_extra or {}).get("decoding"):',
        '        print("\\n", event.model_extra["decoding"])',
      ]
    : [")", "print(answer)"];
  return [...head, ...lines, ...tail].join("\n");
}

/** The ranking, which the openai client has no call of its own for. */
export function pythonRank(body) {
  return [
    "import os",
    "",
    "import httpx",
    "",
    `headers = {"Authorization": "Bearer " + os.environ.get("DECANT_API_KEY", "none")}`,
    `body = ${literal(body, 0)}`,
    `print(httpx.post("${base()}/v1/rank", json=body, headers=headers, timeout=60).json())`,
  ].join("\n");
}

/** A value as a Python literal. */
export function literal(value, indent = 0) {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const pad = " ".repeat(indent + 4);
  const end = " ".repeat(indent);
  const items = Array.isArray(value)
    ? value.map((one) => literal(one, indent + 4))
    : Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${literal(one, indent + 4)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (!items.length) return open + close;
  const flat = `${open}${items.join(", ")}${close}`;
  if (flat.length <= 80 && !flat.includes("\n")) return flat;
  return `${open}\n${items.map((one) => `${pad}${one},`).join("\n")}\n${end}${close}`;
}

/** The panel that shows it; `make()` gives {curl, python} when it is opened or asked to refresh. */
export function panel(make) {
  const blocks = ["curl", "python"].map((name) => {
    const text = h("pre", { class: "code", tabindex: "0", "data-code": name });
    const button = h("button", { type: "button", class: "quiet" }, "Copy");
    button.addEventListener("click", async () => {
      await copy(text.textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    return {
      name,
      text,
      node: h(
        "div",
        { class: "code-block" },
        h("div", { class: "code-head" }, h("span", {}, name === "curl" ? "curl" : "Python"), button),
        text,
      ),
    };
  });
  const refresh = () => {
    const made = make();
    for (const block of blocks) block.text.textContent = made[block.name];
  };
  const node = h(
    "details",
    { class: "as-code" },
    h("summary", {}, "The request as code"),
    ...blocks.map((one) => one.node),
  );
  node.addEventListener("toggle", refresh);
  return { node, refresh: () => node.open && refresh() };
}
