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
let left = false; // whether the page is being left
let edited = null; // the turn that what is sent next replaces, and the draft that waits meanwhile

const settings = new Settings(readModels);
const composer = new Composer({
  send,
  stop: () => running.get(current)?.abort(),
  attachedBefore: () => attachedBefore(turnsBefore()),
}, server.maxBody);

/** The turns that what is written now would follow. */
function turnsBefore() {
  return edited ? current.turns.filter(({ id }) => id < edited.turn.id) : current.turns;
}

/** Ask; returns what is to be written next, or false if this was not sent. */
function send(question) {
  if (running.has(current)) return false;
  if (settings.wrong) {
    panels.open("settings");
    settings.wrong.reportValidity();
    return false;
  }
  composer.notice("");
  const turn = { id: Date.now() + Math.random(), question, answer: noAnswer() };
  const draft = edited?.draft;
  current.turns = [...turnsBefore(), turn];
  edited = null;
  if (!conversations.includes(current)) conversations.unshift(current);
  answer(current, turn);
  show();
  scroll.toEnd();
  return draft;
}

/** Store a conversation, if it was not deleted meanwhile. What breaks because the page is left is no news. */
async function keep(conversation) {
  if (left || !conversations.includes(conversation)) return;
  if (!(await store.keep(conversation))) drop(conversation);
  else if (conversation === current) show();
}

/** A conversation was deleted, here or in another tab. */
function drop(conversation) {
  conversations = conversations.filter((other) => other !== conversation);
  running.get(conversation)?.abort();
  if (conversation === current) turnTo(store.fresh());
  else show();
}

async function answer(conversation, turn) {
  const stopper = new AbortController();
  running.set(conversation, stopper);
  turn.earlier = turn.answer;
  turn.answer = noAnswer(settings.values.model);
  turn.time = Date.now();
  const view = viewOf(turn);
  view.update(true);
  keep(conversation);
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
  conversation.time = turn.time = Date.now();
  const { failure } = turn.answer;
  // A new try that comes to nothing does not cost the answer that was there.
  if (turn.earlier.content && (failure || !turn.answer.content)) turn.answer = { ...turn.earlier, failure };
  delete turn.earlier;
  view.update(false);
  keep(conversation);
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

/** Write a question anew; it and its answer stay until that is sent. */
function edit(turn) {
  if (running.has(current)) return;
  edited = { turn, draft: edited ? edited.draft : composer.draft() };
  composer.fill(turn.question);
  show();
}

function leaveAsItWas() {
  if (!edited) return;
  composer.fill(edited.draft);
  edited = null;
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
  current.turns.forEach((turn, index) => elements[index].classList.toggle("edited", turn === edited?.turn));
  byId("editing").hidden = !edited;
  byId("welcome").hidden = elements.length > 0;
  composer.running = running.has(current);
  document.title = current.turns.length ? `${store.title(current)} · vlserve` : "vlserve";
  showList();
}

/** The list stays as it is where it has not changed: somebody may be about to press one of its buttons. */
function showList() {
  const list = byId("conversations");
  const listed = conversations.filter(({ turns }) => turns.length);
  const shown = JSON.stringify(listed.map((one) => [one.id, store.title(one), one === current]));
  if (list.dataset.shown === shown) return;
  list.dataset.shown = shown;
  list.replaceChildren(...listed.map(row));
}

function row(conversation) {
  const element = byId("conversation-template").content.firstElementChild.cloneNode(true);
  const [opener, remover] = element.querySelectorAll("button");
  opener.textContent = store.title(conversation);
  if (conversation === current) opener.setAttribute("aria-current", "true");
  opener.addEventListener("click", () => turnTo(conversation));
  remover.setAttribute("aria-label", `Delete ${store.title(conversation)}`);
  remover.addEventListener("click", () => {
    store.forget(conversation);
    drop(conversation);
  });
  return element;
}

function turnTo(conversation) {
  leaveAsItWas();
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
  const turns = draft ? [...turnsBefore(), { question: draft }] : current.turns;
  const shown = turns.length ? turns : [{ question: { text: "What can you do?", media: [] } }];
  const { files, address } = filesBeside();
  const body = await requestBody(shown, settings.values, address);
  const language = document.querySelector("[name=language]:checked").value;
  byId("snippet").textContent = { python, curl }[language](body);
  const links = [...files].flatMap(([name, blob], index) => [index ? ", " : "Reads ", save(name, blob)]);
  byId("code-about").replaceChildren(...links, [
    files.size ? " from the current folder." : "",
    server.keyRequired ? "Takes the key from the variable VLSERVE_API_KEY." : "",
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
  if (panels.closeOverlay()) return;
  if (running.has(current)) running.get(current).abort();
  else leaveAsItWas();
});
byId("leave").addEventListener("click", leaveAsItWas);
byId("new").addEventListener("click", () => turnTo(store.fresh()));
byId("forget").addEventListener("click", async () => {
  if (!confirm("Delete all conversations of this browser?")) return;
  conversations = [];
  running.forEach((stopper) => stopper.abort());
  await store.forget();
  turnTo(store.fresh());
});
document.addEventListener("visibilitychange", () => { // a phone may end a page that it hides
  running.forEach((_, conversation) => keep(conversation));
});
addEventListener("pagehide", () => {
  running.forEach((_, conversation) => conversations.includes(conversation) && store.keepAtOnce(conversation));
  left = true;
});
addEventListener("pageshow", () => { left = false; });
addEventListener("focus", async () => {
  const found = await store.all();
  if (!found) return;
  const there = new Set(found.map(({ id }) => id));
  conversations.filter((mine) => store.isKnown(mine) && !there.has(mine.id)).forEach(drop);
  for (const stored of found.reverse()) {
    const mine = conversations.find(({ id }) => id === stored.id);
    if (mine && (running.has(mine) || mine.time >= stored.time)) continue;
    if (mine) store.become(mine, stored); // another tab had it
    conversations = [mine ?? stored, ...conversations.filter((other) => other !== mine)];
  }
  show();
});
byId("version").textContent = `vlserve ${server.version}`;

panels.install();
scroll.install();
installCode();
installIdeas();
readModels();
conversations.push(...((await store.all()) ?? []));
show();
