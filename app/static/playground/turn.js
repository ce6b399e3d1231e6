// A question and its answer on the page.

import { inWords } from "./answer.js";
import { copy } from "./block.js";
import { render } from "./markdown.js";
import { preview } from "./media.js";

/** The view of one turn; `actions` has edit(turn) and retry(turn). */
export class TurnView {
  constructor(turn, actions) {
    this.turn = turn;
    this.element = document.getElementById("turn-template").content.firstElementChild.cloneNode(true);
    this.parts = {};
    for (const name of ["thought", "content", "waiting", "phase", "failure", "words", "details", "figures", "who"]) {
      this.parts[name] = this.element.querySelector(`.${name}`);
    }
    this.footer = this.element.querySelector("footer.actions");
    this.element.querySelector(".question .media").append(...turn.question.media.map(preview));
    this.element.querySelector(".question .text").textContent = turn.question.text;
    this.element.addEventListener("click", (event) => {
      const button = event.target.closest("[data-do]");
      const what = button?.dataset.do;
      if (what === "copy") copy(turn.answer.content, button);
      else if (what === "edit" || what === "retry") actions[what](turn);
    });
    this.update(false);
  }

  /** Draw at the next frame what the answer is by then. */
  schedule() {
    this.frame ??= requestAnimationFrame(() => this.update(true));
  }

  /** Draw the answer now. */
  update(running) {
    cancelAnimationFrame(this.frame);
    this.frame = undefined;
    const { answer } = this.turn;
    const { content, waiting, phase, who, figures } = this.parts;
    who.textContent = answer.model || "Answer";
    render(content, answer.content);
    this.thought(answer, running);
    const failed = this.failure(answer, running);
    waiting.hidden = !running || Boolean(answer.content || answer.reasoning);
    if (waiting.hidden) phase.textContent = "";
    this.footer.hidden = running || (failed && !answer.content);
    const { short, long } = inWords(answer);
    figures.textContent = short;
    figures.title = long;
    this.element.classList.toggle("running", running);
    this.element.classList.toggle("failed", failed);
    this.element.setAttribute("aria-busy", String(running));
  }

  /** What is done before the first token comes: a model that is being loaded. */
  tell(text) {
    this.parts.phase.textContent = text;
  }

  thought({ reasoning, content, thoughtSeconds }, running) {
    const { thought } = this.parts;
    thought.hidden = !reasoning;
    if (!reasoning) return;
    const now = running && !content;
    thought.classList.toggle("now", now);
    const seconds = thoughtSeconds ? ` for ${thoughtSeconds.toFixed(1)} s` : "";
    thought.querySelector("summary").textContent = now ? "Thinking…" : `Thought${seconds}`;
    render(thought.querySelector(".prose"), reasoning);
  }

  /** Show what went wrong; whether anything did. */
  failure(answer, running) {
    const { failure, words, details } = this.parts;
    const interrupted = !running && !answer.finish ? { message: "This answer was interrupted.", details: "" } : null;
    const shown = answer.failure ?? interrupted;
    failure.hidden = !shown;
    words.textContent = shown?.message ?? "";
    details.textContent = shown?.details ?? "";
    return Boolean(shown);
  }
}
