// Anthropic's official client for JavaScript.
import Anthropic from "@anthropic-ai/sdk";
import {
  baseUrl, commandSchema, errorOf, model, nobody, question, tell, user, weather, weatherParameters, weatherQuestion,
  weatherTool,
} from "./scenario.mjs";

const client = new Anthropic({ baseURL: baseUrl, apiKey: "unused", maxRetries: 0 });
const wanted = { model, max_tokens: 200, temperature: 0 };
const tools = [
  { name: "get_weather", description: weatherTool.function.description, input_schema: weatherParameters },
];

async function streamed() {
  const pieces = [];
  const stream = client.messages.stream({ ...wanted, messages: [user(question)] });
  stream.on("text", (text) => pieces.push(text));
  await stream.finalMessage();
  return pieces;
}

async function roundTrip() {
  const messages = [user(weatherQuestion)];
  const first = await client.messages.create({ ...wanted, messages, tools });
  const call = first.content.find((block) => block.type === "tool_use");
  messages.push({ role: "assistant", content: first.content });
  messages.push(user([{ type: "tool_result", tool_use_id: call.id, content: weather }]));
  const told = await client.messages.create({ ...wanted, messages, tools });
  return [call.name, call.input, told.content.map((block) => block.text ?? "").join("")];
}

async function streamedRoundTrip() {
  const messages = [user(weatherQuestion)];
  const stream = client.messages.stream({ ...wanted, messages, tools });
  const deltas = [];
  stream.on("inputJson", (delta) => deltas.push(delta));
  const first = await stream.finalMessage();
  const call = first.content.find((block) => block.type === "tool_use");
  if (JSON.stringify(JSON.parse(deltas.join(""))) !== JSON.stringify(call.input)) {
    throw new Error(`deltas are ${JSON.stringify(deltas)}`);
  }
  messages.push({ role: "assistant", content: first.content });
  messages.push(user([{ type: "tool_result", tool_use_id: call.id, content: weather }]));
  const told = client.messages.stream({ ...wanted, messages, tools });
  return [call.name, call.input, await told.finalText()];
}

async function structured() {
  const output_config = { format: { type: "json_schema", schema: commandSchema } };
  const answer = await client.messages.create({ ...wanted, messages: [user(question)], output_config });
  return JSON.parse(answer.content[0].text);
}

const models = [];
for await (const one of client.models.list()) models.push(one.id);
tell({
  chat: (await client.messages.create({ ...wanted, messages: [user(question)] })).content[0].text,
  stream: await streamed(),
  tools: await roundTrip(),
  streamed_tools: await streamedRoundTrip(),
  structured: await structured(),
  models,
  tokens: (await client.messages.countTokens({ model, messages: [user(question)] })).input_tokens,
  error: await errorOf(() => client.messages.create({ ...wanted, model: nobody, messages: [user(question)] })),
});
