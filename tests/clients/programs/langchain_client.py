"""LangChain, by langchain-ollama and by langchain-openai."""

import functools
import operator
from typing import Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from scenario import BASE_URL, EMBEDDER, MODEL, NOBODY, QUESTION, WEATHER, WEATHER_QUESTION, error_of, tell


class Command(BaseModel):
    """The command that answers the question."""

    command: Literal["pull", "run"]


@tool
def get_weather(city: str) -> str:
    """Get the current weather for a city"""
    return WEATHER


def round_trip(model):
    able = model.bind_tools([get_weather])
    question = HumanMessage(WEATHER_QUESTION)
    first = able.invoke([question])
    (call,) = first.tool_calls
    told = able.invoke([question, first, ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])])
    return [call["name"], call["args"], str(told.text)]


def streamed_round_trip(model):
    able = model.bind_tools([get_weather])
    question = HumanMessage(WEATHER_QUESTION)
    first = functools.reduce(operator.add, able.stream([question]))
    (call,) = first.tool_calls
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    told = "".join(chunk.text for chunk in able.stream([question, first, result]))
    return [call["name"], call["args"], told]


def results(model, nobody, embeddings):
    return {
        "chat": str(model.invoke(QUESTION).text),
        "stream": [str(chunk.text) for chunk in model.stream(QUESTION)],
        "tools": round_trip(model),
        "streamed_tools": streamed_round_trip(model),
        "structured": model.with_structured_output(Command, method="json_schema").invoke(QUESTION).model_dump(),
        "embeddings": [len(vector) for vector in embeddings.embed_documents(["a", "b"])],
        "error": error_of(lambda: nobody.invoke(QUESTION)),
    }


openai = {"base_url": f"{BASE_URL}/v1", "api_key": "unused", "max_retries": 0}
tell(
    ollama=results(
        ChatOllama(model=MODEL, base_url=BASE_URL, temperature=0),
        ChatOllama(model=NOBODY, base_url=BASE_URL),
        OllamaEmbeddings(model=EMBEDDER, base_url=BASE_URL),
    ),
    responses=results(
        ChatOpenAI(model=MODEL, temperature=0, use_responses_api=True, output_version="v0", **openai),
        ChatOpenAI(model=NOBODY, use_responses_api=True, **openai),
        OpenAIEmbeddings(model=EMBEDDER, check_embedding_ctx_length=False, **openai),
    ),
    openai=results(
        ChatOpenAI(model=MODEL, temperature=0, **openai),
        ChatOpenAI(model=NOBODY, **openai),
        # It would count tokens by a vocabulary that it downloads.
        OpenAIEmbeddings(model=EMBEDDER, check_embedding_ctx_length=False, **openai),
    ),
)
