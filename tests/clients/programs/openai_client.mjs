// OpenAI's official client for JavaScript: chat completions, and the same by responses.
import OpenAI from "openai";
import {
  baseUrl, commandSchema, embedder, errorOf, model, nobody, question, tell, user, weather, weatherQuestion, weatherTool,
} from "./scenario.mjs";

const client = new OpenAI({ baseURL: `${baseUrl}/v1`, apiKey: "unused", maxRetries: 0 });
const wanted = { model, temperature: 0 };

async function streamed() {
  const stream = client.chat.completions.stream({ ...wanted, messages: [user(question)] });
  const pieces = [];
  for await (const chunk of stream) pieces.push(chunk.choices[0]?.delta?.content ?? "");
  await stream.finalChatCompletion();
  return pieces;
}

async function roundTrip() {
  const messages = [user(weatherQuestion)];
  const first = (await client.chat.completions.create({ ...wanted, messages, tools: [weatherTool] })).choices[0].message;
  const call = first.tool_calls[0];
  messages.push(first, { role: "tool", content: weather, tool_call_id: call.id });
  const told = await client.chat.completions.create({ ...wanted, messages, tools: [weatherTool] });
  return [call.function.name, JSON.parse(call.function.arguments), told.choices[0].message.content];
}

async function structured() {
  const answer = await client.chat.completions.parse({
    ...wanted,
    messages: [user(question)],
    response_format: { type: "json_schema", json_schema: { name: "command", strict: true, schema: commandSchema } },
  });
  return JSON.parse(answer.choices[0].message.content);
}

const answer = await client.chat.completions.create({ ...wanted, messages: [user(question)] });
const models = [];
for await (const one of client.models.list()) models.push(one.id);
tell({
  chat: answer.choices[0].message.content,
  stream: await streamed(),
  tools: await roundTrip(),
  structured: await structured(),
  embeddings: (await client.embeddings.create({ model: embedder, input: ["a", "b"] })).data.map(
    (one) => one.embedding.length),
  models,
  responses: (await client.responses.create({ ...wanted, input: question })).output_text,
  error: await errorOf(() => client.chat.completions.create({ model: nobody, messages: [user(question)] })),
});
