// What every client program is asked to do; the same as scenario.py.
export const baseUrl = process.argv[2];
export const question = "How do I pull a model?";
export const weatherQuestion = "What is the weather in Paris?";
export const weather = "sunny, 21 degrees";
export const [model, embedder, nobody] = ["guide", "bert-tiny", "nosuch"];
export const weatherParameters = {
  type: "object",
  properties: { city: { type: "string", description: "The name of the city" } },
  required: ["city"],
};
export const weatherTool = {
  type: "function",
  function: { name: "get_weather", description: "Get the current weather for a city", parameters: weatherParameters },
};
export const commandSchema = {
  type: "object",
  properties: { command: { enum: ["pull", "run"] } },
  required: ["command"],
  additionalProperties: false,
};
export const user = (content) => ({ role: "user", content });
export function tell(results) {
  console.log(JSON.stringify(results));
}
export async function errorOf(ask) {
  try {
    await ask();
  } catch (error) {
    return `${error.name}: ${error.message} ${error.responseBody ?? ""}`;
  }
  return "";
}
