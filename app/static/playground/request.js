// A conversation and the settings as the body of a chat completion.

/** The turns that are sent again with each question that follows them. */
function answered(turns) {
  return turns.filter((turn) => turn.answer.content);
}

/** What is attached to them, in bytes. */
export function attachedBefore(turns) {
  return answered(turns).flatMap((turn) => turn.question.media).reduce((sum, { blob }) => sum + blob.size, 0);
}

/** The body for the question of the last turn; `address` turns an attachment into its URL. */
export async function requestBody(turns, settings, address) {
  const earlier = answered(turns.slice(0, -1));
  const messages = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
  for (const turn of earlier) {
    messages.push(await question(turn, address), { role: "assistant", content: turn.answer.content });
  }
  messages.push(await question(turns.at(-1), address));
  const model = settings.model ? { model: settings.model } : {};
  const body = { ...model, messages, stream: true, stream_options: { include_usage: true } };
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    if (settings[name] !== "") body[name] = Number(settings[name]);
  }
  if (settings.thinking) body.enable_thinking = settings.thinking === "on";
  return body;
}

async function question({ question: { text, media } }, address) {
  if (!media.length) return { role: "user", content: text };
  const content = [];
  for (const one of media) {
    const type = one.kind === "image" ? "image_url" : "video_url";
    content.push({ type, [type]: { url: await address(one) } });
  }
  if (text) content.push({ type: "text", text });
  return { role: "user", content };
}
