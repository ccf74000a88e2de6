"""Conversations that together use everything a chat template may look at, in the form transformers takes them.

`turns` are plain dicts with arguments as objects. `as_request` makes the same conversation a client's, through the
OpenAI dialect, so that both sides of a comparison begin with one source.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field

import msgspec

from localllm.dialects.openai import decode_chat
from localllm.generation import GenerationRequest

Turn = dict[str, object]


@dataclass(frozen=True)
class Conversation:
    """One row of the matrix."""

    name: str
    turns: list[Turn]
    tools: list[Turn] = field(default_factory=list)
    think: bool | str | None = None
    prompts: bool = True  # add_generation_prompt

    @property
    def has_calls(self) -> bool:
        return any("tool_calls" in turn for turn in self.turns)

    def as_request(self) -> GenerationRequest:
        """The conversation as it arrives at /v1/chat/completions."""
        turns = copy.deepcopy(self.turns)
        for turn in turns:
            for call in turn.get("tool_calls", []):
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        body = {"model": "m", "messages": turns, "tools": self.tools}
        return msgspec.structs.replace(decode_chat(json.dumps(body).encode()).request, think=self.think)


def user(content: object) -> Turn:
    return {"role": "user", "content": content}


def assistant(content: str = "", thinking: str | None = None, calls: list[Turn] | None = None) -> Turn:
    turn: Turn = {"role": "assistant", "content": content}
    if thinking is not None:
        turn["reasoning_content"] = thinking
    if calls:
        turn["tool_calls"] = calls
    return turn


def call(name: str, arguments: dict[str, object], number: int = 1) -> Turn:
    # Nine letters and digits, which every template takes; what becomes of other ids is another test's question.
    return {"type": "function", "id": f"callabcd{number}", "function": {"name": name, "arguments": arguments}}


def result(content: str, name: str = "get_weather", number: int = 1) -> Turn:
    return {"role": "tool", "name": name, "tool_call_id": f"callabcd{number}", "content": content}


def tool(name: str, properties: dict[str, object], required: list[str]) -> Turn:
    schema = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": schema}}


WEATHER = tool(
    "get_weather",
    {"city": {"type": "string", "description": "Where"}, "days": {"type": "integer", "description": "How many"}},
    ["city"],
)
CLOCK = tool("get_time", {}, [])
SEARCH = tool(
    "search",
    {
        "query": {"type": "string", "description": "What <b>&</b> 'how'"},
        "kind": {"type": "string", "description": "One of", "enum": ["web", "bücher"]},
        "filters": {"type": "object", "description": "More", "properties": {"tags": {"type": "array", "items": {}}}},
    },
    ["query", "kind"],
)
SYSTEM: Turn = {"role": "system", "content": "Be brief."}
QUESTION, WEATHER_QUESTION = user("What is 2 + 2?"), user("How is the weather in Zürich?")
ZURICH = {"city": "Zürich", "days": 3}
NESTED = {"query": 'a "b" <c> & d\nnew\tline', "kind": "bücher", "filters": {"tags": [1, 2.5, True, None, "ü"]}}

MATRIX = [
    Conversation("a question", [QUESTION]),
    Conversation("a system text", [SYSTEM, QUESTION]),
    Conversation("several turns", [QUESTION, assistant("4"), user("And 3 + 3?"), assistant("6"), user("Thanks!")]),
    Conversation(
        "system text and unicode",
        [
            {"role": "system", "content": "Réponds en français 🙂."},
            user("漢字 — «ça va»?"),
            assistant("Ça va 👩‍👩‍👧."),
            user("שלום\u200f é"),
        ],
    ),
    Conversation("blanks and markup", [user("  <b>&'\"</b>\n\n{{ x }} "), assistant("\n {% if %} \n"), user("\t.")]),
    Conversation("typed content", [user([{"type": "text", "text": "What is 2 + 2?"}])]),
    Conversation("empty content", [user(""), assistant(""), user("Hello?")]),
    Conversation("an empty system text", [{"role": "system", "content": ""}, QUESTION]),
    Conversation("two questions in a row", [QUESTION, user("And 3 + 3?")]),
    Conversation("no generation prompt", [QUESTION, assistant("4")], prompts=False),
    Conversation("tools", [WEATHER_QUESTION], [WEATHER, CLOCK]),
    Conversation("tools and a system text", [SYSTEM, WEATHER_QUESTION], [WEATHER, SEARCH]),
    Conversation(
        "a result", [WEATHER_QUESTION, assistant(calls=[call("get_weather", ZURICH)]), result("sunny")], [WEATHER]
    ),
    Conversation(
        "an answer after a result",
        [
            SYSTEM,
            WEATHER_QUESTION,
            assistant(calls=[call("get_weather", ZURICH)]),
            result('{"sky": "sunny", "°C": 21}'),
            assistant("It is sunny."),
            user("Thanks!"),
        ],
        [WEATHER],
    ),
    Conversation(
        "text before a call",
        [WEATHER_QUESTION, assistant("I will look.", calls=[call("get_weather", ZURICH)]), result("sunny")],
        [WEATHER, CLOCK],
    ),
    Conversation(
        "parallel calls",
        [
            WEATHER_QUESTION,
            assistant(calls=[call("get_weather", ZURICH), call("get_time", {}, 2)]),
            result("sunny"),
            result("12:30", "get_time", 2),
        ],
        [WEATHER, CLOCK],
    ),
    Conversation(
        "calls one after another",
        [
            WEATHER_QUESTION,
            assistant(calls=[call("get_weather", ZURICH)]),
            result("sunny"),
            assistant(calls=[call("get_time", {}, 2)]),
            result("12:30", "get_time", 2),
        ],
        [WEATHER, CLOCK],
    ),
    Conversation("nested arguments", [QUESTION, assistant(calls=[call("search", NESTED)]), result("[]")], [SEARCH]),
    Conversation("thinking on", [QUESTION], think=True),
    Conversation("thinking off", [SYSTEM, QUESTION], think=False),
    Conversation("an effort", [QUESTION], think="high"),
    Conversation("earlier thinking", [QUESTION, assistant("4", "Two and two."), user("Sure?")], think=True),
    Conversation(
        "thinking before a call",
        [
            WEATHER_QUESTION,
            assistant(thinking="I need the weather.", calls=[call("get_weather", ZURICH)]),
            result("sunny"),
        ],
        [WEATHER],
        think=True,
    ),
    Conversation(
        "thinking and text before a call",
        [
            WEATHER_QUESTION,
            assistant("I will look.", "I need the weather.", [call("get_weather", ZURICH)]),
            result("sunny"),
        ],
        [WEATHER],
        think=True,
    ),
]
