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

const told = await generateText({ ...wanted, prompt: weatherQuestion, tools, stopWhen: stepCountIs(3) });
const object = await generateObject({ ...wanted, prompt: question, schema: jsonSchema(commandSchema) });
const vectors = await embedMany({ model: provider.textEmbeddingModel(embedder), values: ["a", "b"], maxRetries: 0 });
tell({
  chat: (await generateText({ ...wanted, prompt: question })).text,
  stream: await streamed(),
  tools: [...calls[0], told.text],
  structured: object.object,
  embeddings: vectors.embeddings.map((one) => one.length),
  error: await errorOf(() => generateText({ ...wanted, model: provider(nobody), prompt: question })),
});
