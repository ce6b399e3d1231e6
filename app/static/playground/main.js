// The page: what the parts do to one another. Nothing else knows them all.

import { noAnswer, receive } from "./answer.js";
import { health, models, server } from "./api.js";
import { copy } from "./block.js";
import { Composer } from "./composer.js";
import { dataUrl, sample, save } from "./media.js";
import * as panels from "./panels.js";
import { attachedBefore, requestBody } from "./request.js";
import { Settings } from "./settings.js";
import { curl, filesBeside, python } from "./snippet.js";
import * as store from "./store.js";
import { TurnView } from "./turn.js";

const byId = (id) => document.getElementById(id);
const running = new Map(); // conversation to what stops its answer
const views = new WeakMap(); // turn to its view, which stays while other conversations are shown
let conversations = [];
let current = store.fresh();

const settings = new Settings(readModels);
const composer = new Composer({
  send,
  stop: () => running.get(current)?.abort(),
  attachedBefore: () => attachedBefore(current.turns),
}, server.maxBody);

function send(question) {
  if (running.has(current)) return false;
  if (settings.wrong) {
    panels.open("settings");
    settings.wrong.reportValidity();
    return false;
  }
  composer.notice("");
  const turn = { question, answer: noAnswer() };
  current.turns.push(turn);
  if (!conversations.includes(current)) conversations.unshift(current);
  answer(current, turn);
  show();
  scroll.toEnd();
  return true;
}

async function answer(conversation, turn) {
  const stopper = new AbortController();
  running.set(conversation, stopper);
  turn.answer = noAnswer(settings.values.model);
  const view = viewOf(turn);
  view.update(true);
  store.keep(conversation);
  const watch = tellProgress(turn, view);
  try {
    const body = await requestBody(conversation.turns, settings.values, dataUrl);
    await receive(turn, body, stopper.signal, () => view.schedule());
  } catch (problem) {
    turn.answer.finish = "error";
    turn.answer.failure = { message: problem.message, details: "" }; // a file that is gone
  }
  clearInterval(watch);
  running.delete(conversation);
  conversation.time = Date.now();
  view.update(false);
  store.keep(conversation);
  show();
  announce(turn.answer);
  if (turn.answer.failure?.status === 401) askForKey();
  else if (!settings.isLoaded(turn.answer.model)) readModels(); // it may be now
}

/** While nothing has come for a second, say whether a model is being loaded. */
function tellProgress({ answer }, view) {
  return setInterval(async () => {
    if (answer.content || answer.reasoning) return;
    const found = await health().catch(() => null);
    if (found?.model !== answer.model || found.details.model_state !== "loading") return;
    view.tell(`Loading ${found.model}: ${found.details.phase}, ${Math.round(100 * found.details.progress)} %`);
  }, 1000);
}

/** One announcement for a whole answer: a reader that spelt each token would never come to its end. */
function announce({ content, failure, finish }) {
  const end = { stopped: " (stopped)", length: " (cut at the limit)" }[finish] ?? "";
  byId("status").textContent = failure ? `Error: ${failure.message}` : `${content}${end}`;
}

function viewOf(turn) {
  if (!views.has(turn)) views.set(turn, new TurnView(turn, { edit, retry }));
  return views.get(turn);
}

function edit(turn) {
  if (running.has(current)) return;
  current.turns = current.turns.slice(0, current.turns.indexOf(turn));
  composer.fill(turn.question);
  store.keep(current);
  show();
}

function retry(turn) {
  if (running.has(current)) return;
  answer(current, turn);
  show();
}

/** Draw the current conversation and the list of all. */
function show() {
  const elements = current.turns.map((turn) => viewOf(turn).element);
  const thread = byId("thread");
  const before = [...thread.children];
  for (const element of before) if (!elements.includes(element)) element.remove();
  thread.append(...elements.filter((element) => !element.isConnected));
  elements.forEach((element, index) => element.classList.toggle("last", index === elements.length - 1));
  byId("welcome").hidden = elements.length > 0;
  composer.running = running.has(current);
  document.title = current.turns.length ? `${store.title(current)} · vlserve` : "vlserve";
  byId("conversations").replaceChildren(...conversations.filter(({ turns }) => turns.length).map(row));
}

function row(conversation) {
  const element = byId("conversation-template").content.firstElementChild.cloneNode(true);
  const [opener, remover] = element.querySelectorAll("button");
  opener.textContent = store.title(conversation);
  if (conversation === current) opener.setAttribute("aria-current", "true");
  opener.addEventListener("click", () => turnTo(conversation));
  remover.setAttribute("aria-label", `Delete ${store.title(conversation)}`);
  remover.addEventListener("click", () => {
    running.get(conversation)?.abort();
    conversations = conversations.filter((other) => other !== conversation);
    store.forget(conversation);
    if (conversation === current) turnTo(store.fresh());
    else show();
  });
  return element;
}

function turnTo(conversation) {
  current = conversation;
  panels.closeOverlay();
  show();
  scroll.toEnd();
  composer.text.focus();
}

async function readModels() {
  try {
    const [rows, state] = await Promise.all([models(), health()]);
    settings.fillModels(rows, state?.model);
    composer.notice("");
  } catch (problem) {
    settings.noModels(problem.status === 401 ? "API key needed" : "No models");
    if (problem.status === 401) askForKey(problem);
    else composer.notice(problem.message);
  }
}

function askForKey(problem = null) {
  if (problem) composer.notice(`${problem.message} Enter it in the settings.`);
  panels.open("settings");
  byId("key").focus();
}

/** The thread follows its end, unless one has scrolled up to read. */
const scroll = {
  area: byId("scroll"),
  follows: true,
  toEnd() {
    this.follows = true;
    this.area.scrollTop = this.area.scrollHeight;
  },
  install() {
    this.area.addEventListener("scroll", () => {
      const { scrollHeight, scrollTop, clientHeight } = this.area;
      this.follows = scrollHeight - scrollTop - clientHeight < 60;
      byId("latest").hidden = this.follows;
    });
    byId("latest").addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.follows && this.toEnd()).observe(byId("thread"));
  },
};

async function showCode() {
  const draft = composer.draft();
  const turns = draft ? [...current.turns, { question: draft }] : current.turns;
  const shown = turns.length ? turns : [{ question: { text: "What can you do?", media: [] } }];
  const { files, address } = filesBeside();
  const body = await requestBody(shown, settings.values, address);
  const language = document.querySelector("[name=language]:checked").value;
  byId("snippet").textContent = { python, curl }[language](body);
  const links = [...files].flatMap(([name, blob], index) => [index ? ", " : "Reads ", save(name, blob)]);
  byId("code-about").replaceChildren(...links, [
    files.size ? " from the current folder." : "",
    server.keyRequired ? "Takes the key from the variable VLSERVE_KEY." : "",
    language === "python" ? "Needs pip install openai." : "",
  ].filter(Boolean).join(" "));
}

function installCode() {
  const dialog = byId("code");
  byId("show-code").addEventListener("click", async () => {
    await showCode();
    dialog.showModal();
  });
  for (const choice of document.querySelectorAll("[name=language]")) choice.addEventListener("change", showCode);
  byId("copy-code").addEventListener("click", () => copy(byId("snippet").textContent, byId("copy-code")));
  dialog.querySelector("[data-close-dialog]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  });
}

function installIdeas() {
  const ideas = {
    picture: async () => ({ text: "What is in this picture?", media: [await sample()] }),
    text: async () => ({ text: "What can you do?", media: [] }),
    thinking: async () => {
      settings.thinking = "on"; // the button under the question shows it
      return { text: "Who are you?", media: [] };
    },
  };
  for (const button of document.querySelectorAll("[data-idea]")) {
    button.addEventListener("click", async () => send(await ideas[button.dataset.idea]()));
  }
}

addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || byId("code").open) return;
  if (!panels.closeOverlay()) running.get(current)?.abort();
});
byId("new").addEventListener("click", () => turnTo(store.fresh()));
byId("forget").addEventListener("click", async () => {
  if (!confirm("Delete all conversations of this browser?")) return;
  running.forEach((stopper) => stopper.abort());
  conversations = [];
  await store.forget();
  turnTo(store.fresh());
});
byId("version").textContent = `vlserve ${server.version}`;

panels.install();
scroll.install();
installCode();
installIdeas();
readModels();
conversations.push(...(await store.all()));
show();
