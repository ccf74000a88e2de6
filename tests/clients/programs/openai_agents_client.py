"""OpenAI's Agents SDK, by chat completions and by responses: the loop of an agent, whole and streamed."""

import asyncio
from typing import Literal

import pydantic
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from scenario import BASE_URL, MODEL, NOBODY, QUESTION, WEATHER, WEATHER_QUESTION, error_of, tell

set_tracing_disabled(True)  # it would be sent to OpenAI
CALLS: list[str] = []


class Command(pydantic.BaseModel):
    """What the answer is held to."""

    command: Literal["pull", "run"]


@function_tool
def get_weather(city: str) -> str:
    """Get the current weather for a city"""
    CALLS.append(city)
    return WEATHER


def agent(way: type, model: str = MODEL, **more: object) -> Agent:
    client = AsyncOpenAI(base_url=f"{BASE_URL}/v1", api_key="unused", max_retries=0)
    return Agent(name="guide", model=way(model, client), model_settings=ModelSettings(temperature=0), **more)


async def streamed(asked: Agent, question: str) -> tuple[list[str], str]:
    """The pieces of the answer's text, and the answer."""
    result = Runner.run_streamed(asked, question)
    pieces = []
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            pieces.append(event.data.delta)
    return pieces, result.final_output


async def results_of(way: type) -> dict[str, object]:
    CALLS.clear()
    told = await Runner.run(agent(way, tools=[get_weather]), WEATHER_QUESTION)
    _, streamed_answer = await streamed(agent(way, tools=[get_weather]), WEATHER_QUESTION)
    command = await Runner.run(agent(way, output_type=Command), QUESTION)
    return {
        "chat": (await Runner.run(agent(way), QUESTION)).final_output,
        "stream": (await streamed(agent(way), QUESTION))[0],
        "tools": ["get_weather", {"city": CALLS[0]}, told.final_output],
        "streamed_tools": ["get_weather", {"city": CALLS[1]}, streamed_answer],
        "structured": command.final_output.model_dump(),
    }


def errors_of(way: type) -> dict[str, str]:
    return {"error": error_of(lambda: asyncio.run(Runner.run(agent(way, NOBODY), QUESTION)))}


ways = {"chat": OpenAIChatCompletionsModel, "responses": OpenAIResponsesModel}
tell(**{name: {**asyncio.run(results_of(way)), **errors_of(way)} for name, way in ways.items()})
