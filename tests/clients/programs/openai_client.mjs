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

async function streamedRoundTrip() {
  const messages = [user(weatherQuestion)];
  const stream = client.chat.completions.stream({ ...wanted, messages, tools: [weatherTool] });
  const deltas = [];
  stream.on("tool_calls.function.arguments.delta", (event) => deltas.push(event.arguments_delta));
  const first = (await stream.finalChatCompletion()).choices[0].message;
  const call = first.tool_calls[0];
  if (deltas.join("") !== call.function.arguments) throw new Error(`deltas are ${JSON.stringify(deltas)}`);
  messages.push(first, { role: "tool", content: weather, tool_call_id: call.id });
  const told = client.chat.completions.stream({ ...wanted, messages, tools: [weatherTool] });
  return [call.function.name, JSON.parse(call.function.arguments), await told.finalContent()];
}

async function respondedRoundTrip() {
  const tools = [{ type: "function", ...weatherTool.function, strict: false }];
  const stream = client.responses.stream({ ...wanted, input: [user(weatherQuestion)], tools });
  const deltas = [];
  stream.on("response.function_call_arguments.delta", (event) => deltas.push(event.delta));
  const first = await stream.finalResponse();
  const call = first.output.find((item) => item.type === "function_call");
  if (deltas.join("") !== call.arguments) throw new Error(`deltas are ${JSON.stringify(deltas)}`);
  const input = [{ type: "function_call_output", call_id: call.call_id, output: weather }];
  const told = client.responses.stream({ ...wanted, input, previous_response_id: first.id, tools });
  return [call.name, JSON.parse(call.arguments), (await told.finalResponse()).output_text];
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
  streamed_tools: await streamedRoundTrip(),
  responded_tools: await respondedRoundTrip(),
  structured: await structured(),
  embeddings: (await client.embeddings.create({ model: embedder, input: ["a", "b"] })).data.map(
    (one) => one.embedding.length),
  models,
  responses: (await client.responses.create({ ...wanted, input: question })).output_text,
  error: await errorOf(() => client.chat.completions.create({ model: nobody, messages: [user(question)] })),
});
