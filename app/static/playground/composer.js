// Where a question is written: its text, what is attached by button, paste or drop, and sending it.

import { attachment, preview } from "./media.js";

const byId = (id) => document.getElementById(id);

/**
 * The composer; `actions` has send({text, media}), which returns what is to be written next, or false if nothing was
 * sent, stop(), and attachedBefore(), in bytes.
 */
export class Composer {
  media = [];

  constructor(actions, maxBody) {
    this.actions = actions;
    this.maxBody = maxBody;
    this.form = byId("composer");
    this.text = byId("question");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.text.addEventListener("keydown", (event) => {
      // An Enter that ends a word of an input method is no sending.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    this.text.addEventListener("input", () => this.grow());
    byId("stop").addEventListener("click", () => actions.stop());
    this.listenForFiles();
    this.grow();
  }

  /** Put a question here, to be sent or changed; null for none. */
  fill(question) {
    const { text, media } = question ?? { text: "", media: [] };
    this.text.value = text;
    this.media = [...media];
    this.show();
    this.grow();
    this.text.focus();
  }

  /** What would be sent now, or null. */
  draft() {
    const text = this.text.value.trim();
    return text || this.media.length ? { text, media: this.media } : null;
  }

  /** While an answer comes, there is a button to stop it in place of the one that sends. */
  set running(value) {
    const focused = document.activeElement;
    byId("send").hidden = value;
    byId("stop").hidden = !value;
    this.blocked = value;
    if (focused === byId("send") || focused === byId("stop")) this.text.focus();
  }

  /** A line under the box, for what is no matter of the server. */
  notice(text) {
    byId("notice").textContent = text;
  }

  send() {
    const draft = this.draft();
    if (!draft || this.blocked) return;
    const next = this.actions.send(draft);
    if (next !== false) this.fill(next);
  }

  grow() {
    this.text.style.height = "auto";
    this.text.style.height = `${this.text.scrollHeight}px`;
    byId("send").disabled = !this.draft();
  }

  listenForFiles() {
    const input = byId("files");
    byId("attach").addEventListener("click", () => input.click());
    input.addEventListener("change", async () => {
      await this.add([...input.files]);
      input.value = ""; // so that the same file can be chosen again
      this.text.focus();
    });
    document.addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      if (!files.length) return;
      const { types } = event.clipboardData;
      // A table or a document comes as a picture too; a file's name as a text is no more than that.
      if (!types.includes("text/plain") || !types.includes("text/html")) event.preventDefault();
      this.add(files);
    });
    const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      byId("drop").hidden = false;
    });
    addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) byId("drop").hidden = true;
    });
    addEventListener("drop", (event) => {
      byId("drop").hidden = true;
      if (!hasFiles(event)) return;
      event.preventDefault();
      this.add([...event.dataTransfer.files]);
    });
  }

  async add(files) {
    const problems = [];
    for (const file of files) {
      try {
        const found = await attachment(file);
        this.checkSize(found);
        this.media.push(found);
      } catch (problem) {
        problems.push(problem.message);
      }
    }
    this.notice(problems.join(" "));
    this.show();
    this.grow();
  }

  checkSize({ name, blob }) {
    const room = this.maxBody * 3 / 4; // as base64
    const before = this.actions.attachedBefore();
    const size = this.media.reduce((sum, one) => sum + one.blob.size, blob.size);
    if (size + before <= room) return;
    const about = room < 1e7 ? (room / 1e6).toFixed(1) : Math.floor(room / 1e6);
    const limit = `this server takes about ${about} MB with one request (--max-body-mb)`;
    if (size > room) throw new Error(`${name} is too large: ${limit}.`);
    throw new Error(`${name} is too large here: ${limit}, and what this conversation shows already ` +
      "is sent with each question. It has room in a new conversation.");
  }

  show() {
    const list = byId("attachments");
    list.hidden = !this.media.length;
    list.replaceChildren(...this.media.map((one) => {
      const item = document.createElement("li");
      const remove = document.createElement("button");
      remove.type = "button";
      remove.textContent = "×";
      remove.setAttribute("aria-label", `Remove ${one.name}`);
      remove.addEventListener("click", () => {
        this.media = this.media.filter((other) => other !== one);
        this.show();
        this.grow();
        this.text.focus();
      });
      const small = preview(one);
      small.controls = false;
      item.append(small, remove);
      item.title = one.name;
      return item;
    }));
  }
}
