"""AutoGen's assistant, over Ollama's API and over OpenAI's."""

import asyncio
from typing import Literal

import pydantic
from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import UserMessage
from autogen_ext.models.ollama import OllamaChatCompletionClient
from autogen_ext.models.openai import OpenAIChatCompletionClient
from scenario import BASE_URL, MODEL, NOBODY, QUESTION, WEATHER, WEATHER_QUESTION, error_of, tell

ABOUT = {
    "vision": False,
    "function_calling": True,
    "json_output": True,
    "structured_output": True,
    "family": "unknown",
}
ASKED = [UserMessage(content=QUESTION, source="user")]
CALLS: list[str] = []


class Command(pydantic.BaseModel):
    """What the answer is held to."""

    command: Literal["pull", "run"]


async def get_weather(city: str) -> str:
    """Get the current weather for a city"""
    CALLS.append(city)
    return WEATHER


def openai_client(model: str = MODEL):
    return OpenAIChatCompletionClient(
        model=model, base_url=f"{BASE_URL}/v1", api_key="unused", model_info=ABOUT, temperature=0, max_retries=0
    )


def ollama_client(model: str = MODEL):
    return OllamaChatCompletionClient(model=model, host=BASE_URL, model_info=ABOUT, options={"temperature": 0})


def assistant(client: object, **more: object) -> AssistantAgent:
    return AssistantAgent("guide", client, tools=[get_weather], system_message=None, reflect_on_tool_use=True, **more)


async def results_of(new_client) -> dict[str, object]:
    CALLS.clear()
    pieces = [piece async for piece in new_client().create_stream(ASKED) if isinstance(piece, str)]
    told = await assistant(new_client()).run(task=WEATHER_QUESTION)
    *_, streamed = [
        one async for one in assistant(new_client(), model_client_stream=True).run_stream(task=WEATHER_QUESTION)
    ]
    return {
        "chat": (await new_client().create(ASKED)).content,
        "stream": pieces,
        "tools": ["get_weather", {"city": CALLS[0]}, told.messages[-1].content],
        "streamed_tools": ["get_weather", {"city": CALLS[1]}, streamed.messages[-1].content],
        "structured": Command.model_validate_json(
            (await new_client().create(ASKED, json_output=Command)).content
        ).model_dump(),
    }


def errors_of(new_client) -> dict[str, str]:
    return {"error": error_of(lambda: asyncio.run(new_client(NOBODY).create(ASKED)))}


clients = {"ollama": ollama_client, "openai": openai_client}
tell(**{name: {**asyncio.run(results_of(one)), **errors_of(one)} for name, one in clients.items()})
