// The page: tabs, theme, key, and what the server says of itself.

import { ApiError, get, key } from "./api.js";
import { Chat } from "./chat.js";
import { Rank } from "./rank.js";

const element = (id) => document.getElementById(id);
const status = element("status");
const chat = new Chat(element("chat"));
const rank = new Rank(element("rank"));

let loads = 0;

async function load() {
  const own = ++loads; // a key that is given while the server is asked makes what comes without it stale
  delete document.documentElement.dataset.ready;
  status.textContent = "Asking the server what it offers …";
  status.hidden = false;
  try {
    const [models, listed] = await Promise.all([get("v1/models"), get("v1/decoding/methods")]);
    if (own !== loads) return;
    const facts = { models: models.data, listed };
    chat.load(facts);
    await rank.load(facts);
    if (own !== loads) return;
    status.hidden = true;
    element("key").removeAttribute("aria-invalid");
    document.documentElement.dataset.ready = "true";
  } catch (error) {
    if (own !== loads) return;
    document.documentElement.dataset.ready = "false";
    status.textContent =
      error.status === 401 ? "This server asks for an API key: give it above." : error.message;
    if (error.status === 401) {
      element("key").setAttribute("aria-invalid", "true");
      element("key").focus();
    }
    if (!(error instanceof ApiError)) throw error;
  }
}

function keys() {
  const input = element("key");
  input.value = key.get();
  input.addEventListener("change", () => {
    key.set(input.value.trim());
    load();
  });
}

function tabs() {
  const buttons = [...document.querySelectorAll("[role=tab]")];
  const show = (chosen) => {
    for (const button of buttons) {
      const isChosen = button === chosen;
      button.setAttribute("aria-selected", String(isChosen));
      button.tabIndex = isChosen ? 0 : -1;
      element(button.getAttribute("aria-controls")).hidden = !isChosen;
    }
    element("chat-tools").hidden = chosen.id !== "tab-chat";
  };
  buttons.forEach((button, index) => {
    button.addEventListener("click", () => show(button));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = buttons[(index + step + buttons.length) % buttons.length];
      show(next);
      next.focus();
    });
  });
}

function theme() {
  const button = element("theme");
  const order = ["auto", "light", "dark"];
  const show = () => (button.textContent = `Theme: ${document.documentElement.dataset.theme}`);
  button.addEventListener("click", () => {
    const next = order[(order.indexOf(document.documentElement.dataset.theme) + 1) % order.length];
    document.documentElement.dataset.theme = next;
    localStorage.setItem("decant.theme", next);
    show();
  });
  show();
}

// A phone has no room for settings and answers at once: the settings come closed.
const narrow = matchMedia("(max-width: 720px)");
document.addEventListener("running", () => {
  if (narrow.matches)
    document
      .querySelectorAll("#chat .settings")
      .forEach((one) => (one.open = one.querySelector(".error:not([hidden])") !== null));
});

keys();
tabs();
theme();
load();
