// The server: its models, its health, and answers as they come. What goes wrong is a Failure in words.

import { events } from "./sse.js";

const facts = document.documentElement.dataset; // written by app/routes/playground.py
export const server = {
  base: new URL("v1", document.baseURI).href,
  version: facts.version,
  keyHeader: facts.keyHeader,
  keyPrefix: facts.keyPrefix,
  keyRequired: facts.keyRequired === "true",
  maxBody: Number(facts.maxBody),
};

const KEY = "vlserve-key";
const SMALLER = "All pictures and videos of a conversation are sent with each question: begin a new one, or show smaller files.";

/** The key, for this tab's life only. */
export const key = {
  get: () => {
    try {
      return sessionStorage.getItem(KEY) ?? "";
    } catch {
      return key.fallback;
    }
  },
  set: (value) => {
    key.fallback = value;
    try {
      sessionStorage.setItem(KEY, value);
    } catch {
      // storage is switched off: until the page is closed, then
    }
  },
  fallback: "",
};

/** Something that went wrong: a sentence, and what a person needs to look it up. */
export class Failure extends Error {
  constructor(message, { status = 0, code = "", param = "", id = "", retryAfter = "" } = {}) {
    super(message);
    Object.assign(this, { status, code, param, id, retryAfter });
  }

  /** What stands in small letters under the sentence. */
  get details() {
    return [
      this.status ? `HTTP ${this.status}` : "",
      this.code,
      this.param ? `at ${this.param}` : "",
      this.retryAfter ? `try again in ${this.retryAfter} s` : "",
      this.id ? `request ${this.id}` : "",
    ].filter(Boolean).join(" · ");
  }
}

/** The rows of /v1/models. */
export async function models() {
  return (await (await call(`${server.base}/models`)).json()).data;
}

/** The server's default model and what it does; null where it tells nothing. */
export async function health() {
  const found = await (await call(new URL("health", document.baseURI).href)).json();
  return found.model ? found : null;
}

/** The chunks of a streamed completion; `begun` gets the request's id. Throws a Failure, or AbortError. */
export async function* complete(body, signal, begun) {
  const response = await call(`${server.base}/chat/completions`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const id = response.headers.get("x-request-id") ?? "";
  begun(id);
  try {
    for await (const { data } of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = parsed(data, id);
      if (chunk.error) throw new Failure(chunk.error.message, { ...known(chunk.error), id });
      yield chunk;
    }
  } catch (problem) {
    if (problem instanceof Failure || problem.name === "AbortError") throw problem;
  }
  throw new Failure("The connection broke before the answer was complete.", { id });
}

async function call(url, options = {}) {
  let response;
  try {
    response = await fetch(url, { ...options, headers: { ...options.headers, ...keyHeaders() } });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    if (problem instanceof TypeError && /header|ISO-8859|ByteString/i.test(problem.message)) {
      throw new Failure("The API key has characters in it that no key can have.", { code: "invalid_api_key" });
    }
    throw new Failure("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

function keyHeaders() {
  const value = key.get();
  return value ? { [server.keyHeader]: [server.keyPrefix, value].filter(Boolean).join(" ") } : {};
}

async function failure(response) {
  const about = {
    status: response.status,
    id: response.headers.get("x-request-id") ?? "",
    retryAfter: response.headers.get("Retry-After") ?? "",
  };
  try {
    const { error } = await response.json();
    const advice = error.code === "body_too_large" ? ` ${SMALLER}` : "";
    return new Failure(error.message + advice, { ...about, ...known(error) });
  } catch {
    // Not from vlserve but from a proxy in front of it.
    const words = { 413: `That is more than the proxy lets through. ${SMALLER}`, 504: "The proxy gave up waiting." };
    const other = `The server answered ${response.status} ${response.statusText}`.trim() + ".";
    return new Failure(words[response.status] ?? other, about);
  }
}

function known(error) {
  return { code: error.code ?? "", param: error.param ?? "" };
}

function parsed(data, id) {
  try {
    return JSON.parse(data);
  } catch {
    throw new Failure("The server sent something that is no JSON.", { id });
  }
}
