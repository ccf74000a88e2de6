"""LiteLLM, by its Ollama provider (aider's way) and its OpenAI one."""

import json

import litellm
from scenario import (
    BASE_URL,
    COMMAND_SCHEMA,
    EMBEDDER,
    MODEL,
    NOBODY,
    QUESTION,
    WEATHER,
    WEATHER_QUESTION,
    WEATHER_TOOL,
    error_of,
    tell,
)

litellm.suppress_debug_info = True
OLLAMA = {"model": f"ollama_chat/{MODEL}", "api_base": BASE_URL, "temperature": 0}
OPENAI = {"model": f"openai/{MODEL}", "api_base": f"{BASE_URL}/v1", "api_key": "unused", "temperature": 0}


def user(text):
    return [{"role": "user", "content": text}]


def text_of(answer):
    return answer.choices[0].message.content


def tools(way):
    first = litellm.completion(messages=user(WEATHER_QUESTION), tools=[WEATHER_TOOL], **way).choices[0].message
    call = first.tool_calls[0]
    result = {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": WEATHER}
    told = litellm.completion(
        messages=[*user(WEATHER_QUESTION), first.model_dump(), result], tools=[WEATHER_TOOL], **way
    )
    return [call.function.name, json.loads(call.function.arguments), text_of(told)]


def streamed_tools(way):
    question = user(WEATHER_QUESTION)
    chunks = list(litellm.completion(messages=question, tools=[WEATHER_TOOL], stream=True, **way))
    message = litellm.stream_chunk_builder(chunks, messages=question).choices[0].message
    (call,) = message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": WEATHER}
    told = litellm.completion(
        messages=[*question, message.model_dump(), result], tools=[WEATHER_TOOL], stream=True, **way
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in told)
    return [call.function.name, json.loads(call.function.arguments), text]


def structured(way):
    schema = {"type": "json_schema", "json_schema": {"name": "command", "schema": COMMAND_SCHEMA, "strict": True}}
    return json.loads(text_of(litellm.completion(messages=user(QUESTION), response_format=schema, **way)))


def results(way, embedder):
    stream = litellm.completion(messages=user(QUESTION), stream=True, **way)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    return {
        "chat": text_of(litellm.completion(messages=user(QUESTION), **way)),
        "stream": pieces,
        "tools": tools(way),
        "streamed_tools": streamed_tools(way),
        "structured": structured(way),
        "embeddings": [len(item["embedding"]) for item in litellm.embedding(input=["a", "b"], **embedder).data],
        "error": error_of(
            lambda: litellm.completion(
                messages=user(QUESTION), **{**way, "model": way["model"].replace(MODEL, NOBODY)}, num_retries=0
            )
        ),
    }


tell(
    ollama=results(OLLAMA, {"model": f"ollama/{EMBEDDER}", "api_base": BASE_URL}),
    openai=results(OPENAI, {**{k: v for k, v in OPENAI.items() if k != "temperature"}, "model": f"openai/{EMBEDDER}"}),
    models=[litellm.get_model_info(f"ollama/{MODEL}", api_base=BASE_URL)["key"]],
)
