// Ollama's official client for JavaScript.
import { Ollama } from "ollama";
import {
  baseUrl, commandSchema, embedder, errorOf, model, nobody, question, tell, user, weather, weatherQuestion, weatherTool,
} from "./scenario.mjs";

const client = new Ollama({ host: baseUrl });
const options = { temperature: 0 };

async function streamed() {
  const pieces = [];
  for await (const part of await client.chat({ model, messages: [user(question)], stream: true, options })) {
    pieces.push(part.message.content);
  }
  return pieces;
}

async function roundTrip() {
  const messages = [user(weatherQuestion)];
  const first = (await client.chat({ model, messages, tools: [weatherTool], options })).message;
  const call = first.tool_calls[0].function;
  messages.push(first, { role: "tool", content: weather, tool_name: call.name });
  const told = await client.chat({ model, messages, tools: [weatherTool], options });
  return [call.name, call.arguments, told.message.content];
}

async function streamedRoundTrip() {
  const messages = [user(weatherQuestion)];
  const calls = [];
  for await (const part of await client.chat({ model, messages, tools: [weatherTool], stream: true, options })) {
    calls.push(...(part.message.tool_calls ?? []));
  }
  const [call] = calls;
  messages.push({ role: "assistant", content: "", tool_calls: calls });
  messages.push({ role: "tool", content: weather, tool_name: call.function.name });
  let told = "";
  for await (const part of await client.chat({ model, messages, tools: [weatherTool], stream: true, options })) {
    told += part.message.content;
  }
  return [call.function.name, call.function.arguments, told];
}

tell({
  chat: (await client.chat({ model, messages: [user(question)], options })).message.content,
  stream: await streamed(),
  tools: await roundTrip(),
  streamed_tools: await streamedRoundTrip(),
  structured: JSON.parse(
    (await client.chat({ model, messages: [user(question)], format: commandSchema })).message.content),
  embeddings: (await client.embed({ model: embedder, input: ["a", "b"] })).embeddings.map((one) => one.length),
  models: (await client.list()).models.map((one) => one.name),
  error: await errorOf(() => client.chat({ model: nobody, messages: [user(question)] })),
});
