// Flows of the official Node client.

import OpenAI, { APIError } from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { baseURL, MODEL, run } from "./flow.mjs";

const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const multiply = {
  type: "function",
  name: "multiply",
  description: "Multiply two numbers",
  parameters: {
    type: "object",
    properties: { a: { type: "number" }, b: { type: "number" } },
    required: ["a", "b"],
    additionalProperties: false,
  },
  strict: true,
};
const calculator = { type: "mcp", server_label: "calculator", require_approval: "never" };

async function collect(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

await run({
  async create() {
    const made = await client.responses.create({ model: MODEL, input: "[[think:hm]][[say:Hello]]" });
    const same = await client.responses.retrieve(made.id);
    return { text: made.output_text, same: same.output_text, types: made.output.map((i) => i.type) };
  },

  async tools() {
    const tools = [multiply];
    const asked = await client.responses.create({ model: MODEL, input: "What is 6 times 7?", tools });
    const call = asked.output.at(-1);
    const output = { type: "function_call_output", call_id: call.call_id, output: "42" };
    const done = await client.responses.create({
      model: MODEL,
      previous_response_id: asked.id,
      input: [output],
      tools,
    });
    return { call: [call.name, JSON.parse(call.arguments)], text: done.output_text };
  },

  async events() {
    const input = "[[say:one two]]";
    const events = await collect(await client.responses.create({ model: MODEL, input, stream: true }));
    return {
      numbers: events.map((event) => event.sequence_number),
      first: events[0].type,
      last: events.at(-1).type,
    };
  },

  async helper() {
    const stream = client.responses.stream({
      model: MODEL,
      input: '[[think:hm]][[call:multiply {"a": 6, "b": 7}]]',
      tools: [multiply],
    });
    const kinds = [];
    for await (const event of stream) kinds.push(event.type);
    const final = await stream.finalResponse();
    const stored = await client.responses.retrieve(final.id);
    const call = final.output.at(-1);
    return {
      kinds: [...new Set(kinds)],
      call: [call.name, JSON.parse(call.arguments)],
      ids: final.output.map((item) => item.id),
      stored: stored.output.map((item) => item.id),
    };
  },

  async mcp() {
    const stream = client.responses.stream({ model: MODEL, input: "6 times 7?", tools: [calculator] });
    const final = await stream.finalResponse();
    return { text: final.output_text, types: final.output.map((item) => item.type) };
  },

  async resume() {
    const begun = await client.responses.create({
      model: MODEL,
      input: "[[long:30]][[slow:1]]",
      background: true,
      stream: true,
    });
    let id;
    for await (const event of begun) {
      id ??= event.response?.id;
      if (event.type === "response.output_text.delta") break;
    }
    const stream = client.responses.stream({ response_id: id, starting_after: 5 });
    const numbers = [];
    for await (const event of stream) numbers.push(event.sequence_number);
    return { first: numbers[0], text: (await stream.finalResponse()).output_text };
  },

  async cancel() {
    const input = "[[long:50]][[slow:30]]";
    const made = await client.responses.create({ model: MODEL, input, background: true });
    return { status: (await client.responses.cancel(made.id)).status };
  },

  async failure() {
    const stream = client.responses.stream({ model: MODEL, input: "[[say:a b c]][[fail]]" });
    return { status: (await stream.finalResponse()).status };
  },

  async parse() {
    const Weather = z.object({ city: z.string(), sky: z.enum(["clear", "cloudy"]) });
    const made = await client.responses.parse({
      model: MODEL,
      input: '[[say:{"city": "Oslo", "sky": "cloudy"}]]',
      text: { format: zodTextFormat(Weather, "weather") },
    });
    return made.output_parsed;
  },

  async items() {
    const input = ["a", "b", "c"].map((content) => ({ role: "user", content }));
    const made = await client.responses.create({ model: MODEL, input });
    const pages = client.responses.inputItems.list(made.id, { limit: 1, order: "asc" });
    const texts = [];
    for await (const item of pages) texts.push(item.content[0].text);
    return texts;
  },

  async conversation() {
    const conversation = await client.conversations.create({ metadata: { topic: "colours" } });
    const input = "[[say:blue]] My colour?";
    await client.responses.create({ model: MODEL, input, conversation: conversation.id });
    const pages = client.conversations.items.list(conversation.id, { limit: 1, order: "asc" });
    const roles = [];
    for await (const item of pages) roles.push(item.role);
    const deleted = await client.conversations.delete(conversation.id);
    return { topic: conversation.metadata.topic, roles, deleted: deleted.deleted };
  },

  async chat() {
    const { type: _type, ...parameters } = multiply;
    const stream = client.chat.completions.stream({
      model: MODEL,
      messages: [{ role: "user", content: "What is 6 times 7?" }],
      tools: [{ type: "function", function: parameters }],
      stream_options: { include_usage: true },
    });
    const final = await stream.finalChatCompletion();
    const call = final.choices[0].message.tool_calls[0].function;
    const whole = await client.chat.completions.create({
      model: MODEL,
      messages: [{ role: "user", content: "[[say:Hello]]" }],
    });
    return {
      call: [call.name, JSON.parse(call.arguments)],
      text: whole.choices[0].message.content,
      counted: final.usage.total_tokens > 0,
    };
  },

  async errors() {
    try {
      await client.responses.create({ model: "nobody", input: "Hello" });
    } catch (error) {
      if (!(error instanceof APIError)) throw error;
      const { name } = error.constructor;
      return { class: name, code: error.code, param: error.param, id: Boolean(error.requestID) };
    }
    return null;
  },
});
