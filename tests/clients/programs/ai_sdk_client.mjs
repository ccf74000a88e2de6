// The AI SDK with its provider for whatever speaks OpenAI's dialect, as opencode uses it.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import {
  baseUrl, commandSchema, embedder, errorOf, model, nobody, question, tell, weather, weatherParameters, weatherQuestion,
} from "./scenario.mjs";

const provider = createOpenAICompatible({
  name: "localllm", baseURL: `${baseUrl}/v1`, includeUsage: true, supportsStructuredOutputs: true,
});
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
  const [name, input] = calls.at(-1);
  if (JSON.stringify(JSON.parse(inputs.join(""))) !== JSON.stringify(input)) {
    throw new Error(`deltas are ${JSON.stringify(inputs)}`);
  }
  return [name, input, text];
}

const told = await generateText({ ...wanted, prompt: weatherQuestion, tools, stopWhen: stepCountIs(3) });
const object = await generateObject({ ...wanted, prompt: question, schema: jsonSchema(commandSchema) });
const vectors = await embedMany({ model: provider.textEmbeddingModel(embedder), values: ["a", "b"], maxRetries: 0 });
tell({
  chat: (await generateText({ ...wanted, prompt: question })).text,
  stream: await streamed(),
  tools: [...calls[0], told.text],
  streamed_tools: await streamedRoundTrip(),
  structured: object.object,
  embeddings: vectors.embeddings.map((one) => one.length),
  error: await errorOf(() => generateText({ ...wanted, model: provider(nobody), prompt: question })),
});
