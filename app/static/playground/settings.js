// Model, parameters and key. The parameters are kept in this browser, the key only as long as its tab.

import { key, server } from "./api.js";

const NAMES = ["system", "thinking", "temperature", "top_p", "max_tokens", "seed"];
const STORED = "vlserve-settings";
const byId = (id) => document.getElementById(id);

/** The settings; `keyChanged` is called when another key was entered. */
export class Settings {
  loaded = new Set();

  constructor(keyChanged) {
    this.form = byId("parameters");
    this.model = byId("model");
    for (const [name, value] of Object.entries(stored())) {
      if (NAMES.includes(name)) this.form.elements[name].value = value;
    }
    this.form.addEventListener("input", (event) => {
      if (event.target !== byId("key")) this.keep();
    });
    this.form.addEventListener("reset", () => setTimeout(() => {
      byId("key").value = key.get(); // no parameter
      this.keep();
    }));
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.model.addEventListener("change", () => this.keep());
    byId("think").addEventListener("click", () => {
      this.thinking = this.values.thinking === "on" ? "" : "on";
    });
    this.showThinking();
    this.listenForKey(keyChanged);
  }

  /** All as texts, "" for what is the model's own. */
  get values() {
    const found = Object.fromEntries(NAMES.map((name) => [name, this.form.elements[name].value]));
    return { ...found, model: this.model.value };
  }

  /** The first field whose value cannot be, or null. */
  get wrong() {
    return this.form.querySelector("input:invalid");
  }

  set thinking(value) {
    this.form.elements.thinking.value = value;
    this.keep();
  }

  /** Whether a model was loaded when the list was read. */
  isLoaded(id) {
    return this.loaded.has(id);
  }

  /** Fill the list of models; the one that was chosen before, else the server's default, is chosen. */
  fillModels(rows, preferred) {
    this.loaded = new Set(rows.filter((row) => row.loaded).map((row) => row.id));
    const groups = [["Loaded", rows.filter((row) => row.loaded)], ["Loaded when asked", rows.filter((row) => !row.loaded)]];
    const before = this.model.value || stored().model;
    this.model.replaceChildren(...groups.filter(([, some]) => some.length).map(([name, some]) => {
      const group = document.createElement("optgroup");
      group.label = name;
      group.append(...some.map((row) => option(row)));
      return group;
    }));
    const known = [before, preferred, rows[0]?.id].find((id) => rows.some((row) => row.id === id));
    this.model.value = known ?? "";
  }

  /** Where there is no list, it says why. */
  noModels(reason) {
    const only = document.createElement("option");
    only.value = "";
    only.textContent = reason;
    this.model.replaceChildren(only);
  }

  keep() {
    this.showThinking();
    try {
      localStorage.setItem(STORED, JSON.stringify(this.values));
    } catch {
      // storage is switched off
    }
  }

  showThinking() {
    byId("think").setAttribute("aria-pressed", String(this.values.thinking === "on"));
  }

  listenForKey(keyChanged) {
    const field = byId("key");
    field.value = key.get();
    byId("key-about").textContent = server.keyRequired
      ? `Sent as ${[server.keyHeader, server.keyPrefix].filter(Boolean).join(": ")} …; forgotten with this tab.`
      : "This server asks for none.";
    field.addEventListener("change", () => {
      key.set(field.value.trim());
      keyChanged();
    });
  }
}

function option(row) {
  const element = document.createElement("option");
  element.value = row.id;
  element.textContent = row.id;
  element.title = row.modalities.join(", ");
  return element;
}

function stored() {
  try {
    return JSON.parse(localStorage.getItem(STORED)) ?? {};
  } catch {
    return {};
  }
}
