// Server-sent events out of bytes that may be cut anywhere: in a line, a character, between CR and LF.

/** The events of a byte stream as {event, data}; comments and events without data are left out. */
export async function* events(stream) {
  let event = "message";
  let data = [];
  for await (const line of lines(stream)) {
    if (line === "") {
      if (data.length) yield { event, data: data.join("\n") };
      event = "message";
      data = [];
      continue;
    }
    const colon = line.indexOf(":");
    if (colon === 0) continue;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") data.push(value);
    else if (name === "event") event = value || "message";
  }
}

/** Whole lines; what has no line end at the stream's end is no line, as the standard says. */
async function* lines(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        if (rest.endsWith("\r")) yield rest.slice(0, -1);
        return;
      }
      rest += decoder.decode(value, { stream: true });
      // A CR at the very end may be half of a CRLF: it waits for what follows.
      const found = rest.split(/\r\n|\n|\r(?!$)/);
      rest = found.pop();
      yield* found;
    }
  } finally {
    await reader.cancel().catch(() => {}); // a reader that left ends the request
  }
}
