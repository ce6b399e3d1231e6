// The official Node client against a running server: one line of JSON for each case, {"case", "ok", "error"}.
// usage: node conformance.mjs http://127.0.0.1:8000 PICTURE_OF_A_RED_CIRCLE.png

import assert from "node:assert/strict";
import fs from "node:fs";
import OpenAI from "openai";

const [url, picture] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0, timeout: 60_000 });
const model = "demo";
const talk = [{ role: "user", content: "Tell me about yourself." }];
const image = `data:image/png;base64,${fs.readFileSync(picture).toString("base64")}`;
const seen = [
  {
    role: "user",
    content: [
      { type: "image_url", image_url: { url: image, detail: "auto" } },
      { type: "text", text: "What is in this picture?" },
    ],
  },
];
const long = { model, messages: talk, ignore_eos: true, max_tokens: 3000 };

const colours = {
  type: "object",
  properties: { colour: { enum: ["red", "green", "blue"] } },
  required: ["colour"],
  additionalProperties: false,
};

const chat = (options = {}) => client.chat.completions.create({ model, messages: talk, ...options });
const text = async (options = {}) => (await chat(options)).choices[0].message.content;

async function gathered(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

async function idle() {
  for (let look = 0; look < 300; look++) {
    const { running, waiting } = (await (await fetch(`${url}/health`)).json()).details;
    if (running + waiting === 0) return;
    await new Promise((done) => setTimeout(done, 100));
  }
  assert.fail("the server went on generating");
}

const cases = {
  "a whole answer": async () => {
    const answer = await chat();
    assert.equal(answer.object, "chat.completion");
    assert.match(answer.choices[0].message.content, /demo model/);
    assert.equal(answer.choices[0].finish_reason, "stop");
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
    assert.ok(answer._request_id);
  },
  "a stream": async () => {
    const chunks = await gathered(await chat({ stream: true, stream_options: { include_usage: true } }));
    const said = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
    assert.equal(said, await text());
    assert.equal(chunks[0].choices[0].delta.role, "assistant");
    assert.equal(chunks.at(-2).choices[0].finish_reason, "stop");
    assert.ok(chunks.at(-1).usage.completion_tokens > 5);
    assert.ok(chunks.length > 5);
  },
  "a stream that is aborted in the middle": async () => {
    const stream = await client.chat.completions.create({ ...long, stream: true });
    let pieces = 0;
    for await (const chunk of stream) {
      if (chunk.choices[0].delta.content && ++pieces === 3) stream.controller.abort();
    }
    assert.ok(pieces >= 3 && pieces < 2000);
    await idle();
  },
  "a whole answer that is aborted": async () => {
    const signal = AbortSignal.timeout(300);
    await assert.rejects(client.chat.completions.create(long, { signal }), OpenAI.APIUserAbortError);
    await idle();
  },
  "a client without patience": async () => {
    await assert.rejects(
      client.chat.completions.create(long, { timeout: 300 }),
      OpenAI.APIConnectionTimeoutError,
    );
    await idle();
  },
  "the stream helper": async () => {
    const deltas = [];
    const stream = client.chat.completions.stream({ model, messages: talk });
    stream.on("content", (delta) => deltas.push(delta));
    const final = await stream.finalChatCompletion();
    assert.equal(final.choices[0].message.content, await text());
    assert.equal(deltas.join(""), final.choices[0].message.content);
  },
  "a picture as a data URL": async () => {
    const whole = await text({ messages: seen });
    assert.match(whole, /red circle/);
    const chunks = await gathered(await chat({ messages: seen, stream: true }));
    assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""), whole);
  },
  "several choices": async () => {
    const options = { n: 3, temperature: 1.8, seed: 5, max_tokens: 20 };
    const whole = (await chat(options)).choices.map((choice) => choice.message.content);
    assert.equal(whole.length, 3);
    assert.ok(new Set(whole).size > 1);
    const parts = ["", "", ""];
    for await (const chunk of await chat({ ...options, stream: true })) {
      for (const choice of chunk.choices) parts[choice.index] += choice.delta.content ?? "";
    }
    assert.deepEqual(parts, whole);
  },
  "log probabilities": async () => {
    const { content } = (await chat({ logprobs: true, top_logprobs: 2, max_tokens: 6 })).choices[0].logprobs;
    assert.equal(content.length, 6);
    for (const token of content) {
      assert.ok(token.logprob <= 0);
      assert.equal(token.top_logprobs.length, 2);
      assert.equal(Buffer.from(token.bytes).toString(), token.token);
    }
  },
  "a thought": async () => {
    const { message } = (await chat({ messages: seen, reasoning_effort: "low" })).choices[0];
    assert.ok(message.reasoning_content);
    assert.ok(message.content);
    assert.ok(!`${message.reasoning_content}${message.content}`.includes("think>"));
  },
  "structured output": async () => {
    const json_schema = { name: "seen", schema: colours, strict: true };
    const answer = await client.chat.completions.parse({
      model,
      messages: seen,
      response_format: { type: "json_schema", json_schema },
    });
    assert.match(JSON.parse(answer.choices[0].message.content).colour, /^(red|green|blue)$/);
  },
  "a tool": async () => {
    const tools = [{ type: "function", function: { name: "look", parameters: colours } }];
    const options = { messages: seen, tools, tool_choice: "required", parallel_tool_calls: false };
    const { finish_reason, message } = (await chat(options)).choices[0];
    assert.equal(finish_reason, "tool_calls");
    assert.match(JSON.parse(message.tool_calls[0].function.arguments).colour, /^(red|green|blue)$/);
    const call = await client.chat.completions.stream({ model, ...options }).finalFunctionToolCall();
    assert.equal(call.arguments, message.tool_calls[0].function.arguments);
    const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "It is so." };
    assert.ok((await chat({ messages: [...seen, message, result], tools, max_tokens: 20 })).choices[0]);
  },
  "the helper that runs tools": async () => {
    const asked = [];
    const look = { name: "look", parameters: colours, parse: JSON.parse, function: (given) => asked.push(given) };
    await client.chat.completions
      .runTools({
        model,
        messages: seen,
        tools: [{ type: "function", function: look }],
        tool_choice: { type: "function", function: { name: "look" } },
      })
      .done();
    assert.equal(asked.length, 1);
    assert.match(asked[0].colour, /^(red|green|blue)$/);
  },
  "the next turn": async () => {
    const first = (await chat({ messages: seen })).choices[0].message;
    assert.ok(await text({ messages: [...seen, first, { role: "user", content: "Where is it?" }] }));
  },
  "a text completion": async () => {
    const options = { model, prompt: ["A large red circle at the", "What is"], temperature: 0, max_tokens: 8 };
    const whole = (await client.completions.create(options)).choices.map((choice) => choice.text);
    assert.equal(whole.length, 2);
    const parts = ["", ""];
    for await (const chunk of await client.completions.create({ ...options, stream: true })) {
      for (const choice of chunk.choices) parts[choice.index] += choice.text;
    }
    assert.deepEqual(parts, whole);
  },
  "models": async () => {
    const listed = await gathered(client.models.list());
    assert.ok(listed.some((one) => one.id === model));
    assert.equal((await client.models.retrieve(model)).object, "model");
  },
  "many requests at once": async () => {
    const whole = await text();
    const found = await Promise.all(Array.from({ length: 12 }, () => text()));
    assert.deepEqual(found, Array(12).fill(whole));
  },
  "the raw response": async () => {
    const { data, response, request_id } = await client.chat.completions
      .create({ model, messages: talk, max_tokens: 2 }, { headers: { "x-request-id": "mine-node" } })
      .withResponse();
    assert.equal(response.status, 200);
    assert.equal(request_id, "mine-node");
    assert.equal(data.usage.completion_tokens, 2);
  },
  "a bad request": async () => {
    for (const stream of [false, true]) {
      await assert.rejects(chat({ temperature: 3, stream }), (error) => {
        assert.ok(error instanceof OpenAI.BadRequestError);
        assert.deepEqual([error.status, error.param, error.code], [400, "temperature", "invalid_value"]);
        assert.ok(error.requestID);
        return true;
      });
    }
  },
  "a model that is not there": async () => {
    for (const ask of [() => chat({ model: "gpt-9" }), () => client.models.retrieve("gpt-9")]) {
      await assert.rejects(ask(), (error) => {
        assert.ok(error instanceof OpenAI.NotFoundError);
        assert.equal(error.code, "model_not_found");
        return true;
      });
    }
  },
};

for (const [name, run] of Object.entries(cases)) {
  const line = { case: name, ok: true, error: null };
  try {
    await run();
  } catch (error) {
    Object.assign(line, { ok: false, error: error.stack ?? String(error) });
  }
  console.log(JSON.stringify(line));
}
