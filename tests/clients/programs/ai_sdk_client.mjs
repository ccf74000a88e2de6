// The AI SDK with its providers: for whatever speaks OpenAI's dialect (as opencode has it), for OpenAI's responses, for
// Anthropic, and for Ollama.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { createOllama } from "ollama-ai-provider-v2";
import {
  baseUrl, commandSchema, embedder, errorOf, model, nobody, question, tell, weather, weatherParameters, weatherQuestion,
} from "./scenario.mjs";

const versioned = { baseURL: `${baseUrl}/v1`, apiKey: "unused" };
const providers = {
  compatible: createOpenAICompatible({
    ...versioned, name: "localllm", includeUsage: true, supportsStructuredOutputs: true,
  }),
  openai: createOpenAI(versioned),
  anthropic: createAnthropic(versioned),
  ollama: createOllama({ baseURL: `${baseUrl}/api` }),
};
// How each is asked to think; in OpenAI's own words nothing is said to a model that it does not know.
const thinking = { anthropic: { thinking: { type: "enabled", budgetTokens: 1024 } }, ollama: { think: true } };

async function resultsOf(name, provider) {
  const wanted = { model: provider(model), temperature: 0, maxRetries: 0 };
  const calls = [];
  const tools = {
    get_weather: tool({
      description: "Get the current weather for a city",
      inputSchema: jsonSchema(weatherParameters),
      execute: async (input) => {
        calls.push(["get_weather", input]);
        return weather;
      },
    }),
  };

  async function streamed() {
    const pieces = [];
    for await (const piece of streamText({ ...wanted, prompt: question }).textStream) pieces.push(piece);
    return pieces;
  }

  async function streamedRoundTrip() {
    const inputs = [];
    let text = "";
    const answer = streamText({ ...wanted, prompt: weatherQuestion, tools, stopWhen: stepCountIs(3) });
    for await (const part of answer.fullStream) {
      if (part.type === "error") throw part.error;
      if (part.type === "tool-input-delta") inputs.push(part.delta);
      if (part.type === "text-delta") text += part.text;
    }
    const [called, input] = calls.at(-1);
    if (JSON.stringify(JSON.parse(inputs.join(""))) !== JSON.stringify(input)) {
      throw new Error(`deltas are ${JSON.stringify(inputs)}`);
    }
    return [called, input, text];
  }

  async function thoughts() {
    const asked = { ...wanted, prompt: weatherQuestion, tools, stopWhen: stepCountIs(3), providerOptions: thinking };
    const answer = await generateText(asked);
    return answer.steps.map((step) => step.reasoningText ?? "");
  }

  const told = await generateText({ ...wanted, prompt: weatherQuestion, tools, stopWhen: stepCountIs(3) });
  const object = await generateObject({ ...wanted, prompt: question, schema: jsonSchema(commandSchema) });
  const vectors =
    name === "anthropic"
      ? undefined
      : await embedMany({ model: provider.textEmbeddingModel(embedder), values: ["a", "b"], maxRetries: 0 });
  return {
    chat: (await generateText({ ...wanted, prompt: question })).text,
    stream: await streamed(),
    tools: [...calls[0], told.text],
    streamed_tools: await streamedRoundTrip(),
    structured: object.object,
    ...(vectors && { embeddings: vectors.embeddings.map((one) => one.length) }),
    ...(thinking[name] && { thoughts: await thoughts() }),
    error: await errorOf(() => generateText({ ...wanted, model: provider(nobody), prompt: question })),
  };
}

const results = {};
for (const [name, provider] of Object.entries(providers)) results[name] = await resultsOf(name, provider);
tell(results);
