// Flows of the Vercel AI SDK with its OpenAI provider, over the Responses API.

import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { baseURL, MODEL, run } from "./flow.mjs";

const openai = createOpenAI({ baseURL, apiKey: "none" });
const model = openai.responses(MODEL);
const multiply = tool({
  description: "Multiply two numbers",
  inputSchema: z.object({ a: z.number(), b: z.number() }),
  execute: async ({ a, b }) => a * b,
});
const calculator = openai.tools.mcp({
  serverLabel: "mine",
  serverUrl: process.env.SMG_MCP_URL,
  requireApproval: "never",
});
const question = "What is 6 times 7?";

function calls(steps) {
  return steps.flatMap((step) => step.toolCalls.map((call) => [call.toolName, call.input]));
}

await run({
  async generate() {
    const result = await generateText({ model, system: "Be short.", prompt: "[[say:Hello]]" });
    return { text: result.text, finish: result.finishReason, tokens: result.usage.totalTokens > 0 };
  },

  async generateWithTools() {
    const tools = { multiply };
    const result = await generateText({ model, prompt: question, tools, stopWhen: stepCountIs(3) });
    return { text: result.text, calls: calls(result.steps), steps: result.steps.length };
  },

  async streamWithTools() {
    const errors = [];
    const result = streamText({
      model,
      prompt: question,
      tools: { multiply },
      stopWhen: stepCountIs(3),
      onError: ({ error }) => errors.push(String(error)),
    });
    const kinds = new Set();
    for await (const part of result.fullStream) kinds.add(part.type);
    const steps = await result.steps;
    return { text: await result.text, calls: calls(steps), kinds: [...kinds], errors };
  },

  async references() {
    const first = await generateText({ model, prompt: "[[think:hm]][[say:blue]] My colour?" });
    const messages = [
      { role: "user", content: "[[think:hm]][[say:blue]] My colour?" },
      ...first.response.messages,
      { role: "user", content: "[[echo]]" },
    ];
    const second = await generateText({ model, messages });
    return { sent: second.request.body.input.map((item) => item.type), said: JSON.parse(second.text) };
  },

  async withoutStorage() {
    const providerOptions = { openai: { store: false, include: ["reasoning.encrypted_content"] } };
    const prompt = "[[think:hm]][[say:blue]] My colour?";
    const first = await generateText({ model, prompt, providerOptions });
    const messages = [
      { role: "user", content: prompt },
      ...first.response.messages,
      { role: "user", content: "[[echo]]" },
    ];
    const second = await generateText({ model, messages, providerOptions });
    return { said: JSON.parse(second.text) };
  },

  async chain() {
    const first = await generateText({ model, prompt: "[[say:blue]] My colour?" });
    const previousResponseId = first.providerMetadata.openai.responseId;
    const providerOptions = { openai: { previousResponseId } };
    const second = await generateText({ model, prompt: "[[echo]]", providerOptions });
    return { said: JSON.parse(second.text) };
  },

  async structured() {
    const schema = z.object({ city: z.string(), sky: z.enum(["clear", "cloudy"]) });
    const result = await generateText({
      model,
      prompt: '[[say:{"city": "Oslo", "sky": "cloudy"}]]',
      output: Output.object({ schema }),
    });
    return result.output;
  },

  async mcp() {
    const tools = { calculator };
    const whole = await generateText({ model, prompt: question, tools });
    const errors = [];
    const onError = ({ error }) => errors.push(String(error));
    const streamed = streamText({ model, prompt: question, tools, onError });
    return { whole: whole.text, streamed: await streamed.text, errors };
  },

  async failure() {
    try {
      await generateText({ model, prompt: "[[http500]]", maxRetries: 0 });
    } catch (error) {
      if (!APICallError.isInstance(error)) throw error;
      return { status: error.statusCode, message: error.message };
    }
    return null;
  },

  async brokenStream() {
    const errors = [];
    const onError = ({ error }) => errors.push(error);
    const result = streamText({ model, prompt: "[[say:a b c]][[fail]]", onError, maxRetries: 0 });
    const kinds = [];
    for await (const part of result.fullStream) kinds.push(part.type);
    return { kinds: [...new Set(kinds)], errors: errors.length };
  },

  async chat() {
    const result = await generateText({
      model: openai.chat(MODEL),
      prompt: question,
      tools: { multiply },
      stopWhen: stepCountIs(3),
    });
    return { text: result.text, calls: calls(result.steps) };
  },
});
