"""LlamaIndex's class for Ollama."""

from typing import Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.ollama import Ollama
from pydantic import BaseModel
from scenario import BASE_URL, MODEL, NOBODY, QUESTION, WEATHER, WEATHER_QUESTION, error_of, tell


class Command(BaseModel):
    """The command that answers the question."""

    command: Literal["pull", "run"]


def get_weather(city: str) -> str:
    """Get the current weather for a city"""
    return WEATHER


def model_of(name):
    return Ollama(model=name, base_url=BASE_URL, request_timeout=60, temperature=0, context_window=2048)


def round_trip(model):
    tool = FunctionTool.from_defaults(get_weather)
    first = model.chat_with_tools([tool], user_msg=WEATHER_QUESTION)
    (call,) = model.get_tool_calls_from_response(first)
    result = ChatMessage(role="tool", content=WEATHER, additional_kwargs={"tool_call_id": call.tool_id})
    history = [ChatMessage(role="user", content=WEATHER_QUESTION), first.message, result]
    return [call.tool_name, call.tool_kwargs, model.chat(history).message.content]


def streamed_round_trip(model):
    tool = FunctionTool.from_defaults(get_weather)
    *_, first = model.stream_chat_with_tools([tool], user_msg=WEATHER_QUESTION)
    (call,) = model.get_tool_calls_from_response(first)
    result = ChatMessage(role="tool", content=WEATHER, additional_kwargs={"tool_call_id": call.tool_id})
    *_, told = model.stream_chat([ChatMessage(role="user", content=WEATHER_QUESTION), first.message, result])
    return [call.tool_name, call.tool_kwargs, told.message.content]


model = model_of(MODEL)
question = [ChatMessage(role="user", content=QUESTION)]
tell(
    chat=model.chat(question).message.content,
    stream=[piece.delta for piece in model.stream_chat(question)],
    tools=round_trip(model),
    streamed_tools=streamed_round_trip(model),
    structured=model.structured_predict(Command, PromptTemplate(QUESTION)).model_dump(),
    error=error_of(lambda: model_of(NOBODY).chat(question)),
)
