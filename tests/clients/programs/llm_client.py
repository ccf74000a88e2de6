"""The library of `llm` with its plugin for Ollama, which finds the daemon by OLLAMA_HOST."""

import json

import llm
from scenario import (
    COMMAND_SCHEMA,
    EMBEDDER,
    MODEL,
    NOBODY,
    QUESTION,
    WEATHER,
    WEATHER_QUESTION,
    error_of,
    tell,
)


def get_weather(city: str) -> str:
    """Get the current weather for a city"""
    calls.append(["get_weather", {"city": city}])
    return WEATHER


calls = []
model = llm.get_model(f"ollama/{MODEL}")
told = model.chain(WEATHER_QUESTION, tools=[get_weather], options={"temperature": 0}).text()
pieces = model.chain(WEATHER_QUESTION, tools=[get_weather], options={"temperature": 0})
streamed = "".join(piece for response in pieces.responses() for piece in response)
tell(
    chat=model.prompt(QUESTION, stream=False, temperature=0).text(),
    stream=list(model.prompt(QUESTION, stream=True, temperature=0)),
    tools=[*calls[0], told],
    streamed_tools=[*calls[-1], streamed],
    structured=json.loads(model.prompt(QUESTION, schema=COMMAND_SCHEMA, stream=False).text()),
    embeddings=[len(llm.get_embedding_model(f"ollama/{EMBEDDER}").embed("a"))],
    models=[one.model_id for one in llm.get_models() if one.model_id.startswith("ollama/")],
    error=error_of(lambda: llm.get_model(NOBODY)),
)
