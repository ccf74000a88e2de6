"""Pydantic AI, by its OpenAI provider."""

import asyncio
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from scenario import BASE_URL, MODEL, NOBODY, QUESTION, WEATHER, WEATHER_QUESTION, error_of, tell


class Command(BaseModel):
    """The command that answers the question."""

    command: Literal["pull", "run"]


provider = OpenAIProvider(base_url=f"{BASE_URL}/v1", api_key="unused")
model = OpenAIChatModel(MODEL, provider=provider)
settings = {"temperature": 0}
weather = Agent(model, model_settings=settings)
calls = []


@weather.tool_plain
def get_weather(city: str) -> str:
    """Get the current weather for a city

    Args:
        city: The name of the city
    """
    calls.append(["get_weather", {"city": city}])
    return WEATHER


async def streamed():
    async with Agent(model, model_settings=settings).run_stream(QUESTION) as answer:
        return [piece async for piece in answer.stream_text(delta=True)]


async def streamed_round_trip():
    async with weather.run_stream(WEATHER_QUESTION) as answer:
        said = await answer.get_output()
    return [*calls[-1], said]


told = weather.run_sync(WEATHER_QUESTION).output
tell(
    chat=Agent(model, model_settings=settings).run_sync(QUESTION).output,
    stream=asyncio.run(streamed()),
    tools=[*calls[0], told],
    streamed_tools=asyncio.run(streamed_round_trip()),
    structured=Agent(model, output_type=NativeOutput(Command)).run_sync(QUESTION).output.model_dump(),
    error=error_of(lambda: Agent(OpenAIChatModel(NOBODY, provider=provider)).run_sync(QUESTION)),
)
