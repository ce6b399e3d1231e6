// One answer while it comes: its text, its thought, and how fast it was.

import { complete } from "./api.js";

const SHORTEST = 0.03; // seconds: of less, a network that hands over several tokens at once makes any speed

/** What a turn has before anything was answered. */
export function noAnswer(model = "") {
  return { content: "", reasoning: "", model, finish: "", failure: null, figures: null };
}

/** Fill turn.answer from the stream; calls `changed` after each piece. Failures end up in the answer. */
export async function receive(turn, body, signal, changed) {
  const answer = turn.answer;
  const clock = new Clock();
  try {
    for await (const chunk of complete(body, signal, (id) => { answer.id = id; })) {
      if (chunk.model) answer.model = chunk.model;
      const choice = chunk.choices[0];
      const { reasoning_content: thought = "", content } = choice?.delta ?? {};
      if (thought || content) clock.tick();
      answer.reasoning += thought;
      if (content && !answer.content) answer.thoughtSeconds = clock.seconds();
      answer.content += content ?? "";
      if (choice?.finish_reason) answer.finish = choice.finish_reason;
      if (chunk.usage) answer.figures = clock.figures(chunk.usage);
      changed();
    }
  } catch (problem) {
    if (problem.name === "AbortError") {
      answer.finish = "stopped";
    } else {
      answer.finish = "error";
      const { message, details = "", status = 0 } = problem;
      answer.failure = { message, details, status };
    }
  }
  answer.figures ??= clock.figures(null);
}

/** Measures from the click to the first token and to the last. */
class Clock {
  start = performance.now();
  first = 0;
  last = 0;
  pieces = 0;

  tick() {
    this.pieces += 1;
    this.last = performance.now();
    this.first ||= this.last;
  }

  seconds() {
    return (this.last - this.start) / 1000;
  }

  /** Tokens from the server, times from here. Tokens a second count from the first token on. */
  figures(usage) {
    if (!this.first) return null;
    const tokens = usage?.completion_tokens ?? this.pieces; // a piece is a token, or nearly
    const span = (this.last - this.first) / 1000;
    return {
      first: (this.first - this.start) / 1000,
      speed: tokens > 1 && span > SHORTEST ? (tokens - 1) / span : 0,
      tokens,
      usage,
    };
  }
}

/** The figures as a short line, and as a long one. */
export function inWords({ figures, finish, id }) {
  const ends = { length: "cut at the limit", stopped: "stopped", error: "failed" };
  const short = ends[finish] ? [ends[finish]] : [];
  const long = [];
  if (figures) {
    if (figures.usage) short.push(`${figures.usage.completion_tokens} tokens`);
    else if (figures.tokens) short.push(`about ${figures.tokens} tokens`);
    if (figures.speed) short.push(`${figures.speed >= 10 ? Math.round(figures.speed) : figures.speed.toFixed(1)} tokens/s`);
    short.push(`first in ${figures.first.toFixed(2)} s`);
    const { prompt_tokens_details: details, ...usage } = figures.usage ?? {};
    if (usage.prompt_tokens) long.push(`prompt ${usage.prompt_tokens} tokens`);
    if (details?.cached_tokens) long.push(`${details.cached_tokens} of them known already`);
    if (details?.image_tokens) long.push(`${details.image_tokens} of pictures`);
    if (details?.video_tokens) long.push(`${details.video_tokens} of videos`);
    const thought = usage.completion_tokens_details?.reasoning_tokens;
    if (thought) long.push(`thought ${thought} tokens`);
  }
  if (id) long.push(`request ${id}`);
  return { short: short.join(" · "), long: long.join(", ") };
}
