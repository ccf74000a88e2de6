"""Every known template renders every conversation byte for byte as transformers' `apply_chat_template` does.

The tables say where that needs a word: templates that are told a conversation differently (then transformers is told
the same), templates that transformers' sandbox stops (then its sandbox is opened for them, here only), and
conversations that a template cannot express, which both refuse.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from chat_matrix import MATRIX, Conversation
from chat_templates import upstream_templates
from transformers.utils import chat_template_utils

from localllm.chat.template import ChatTemplate
from localllm.errors import TemplateError

NOW = datetime(2031, 2, 3, 4, 5, 6)
Turns = list[dict[str, Any]]


def system_in_user_turn(turns: Turns) -> Turns:
    """Gemma 2 has no system role."""
    if turns[0]["role"] != "system":
        return turns
    content = "\n\n".join(turn["content"] for turn in turns[:2] if turn["content"])
    return [{"role": "user", "content": content}, *turns[2:]]


def neighbours_merged(turns: Turns) -> Turns:
    """Gemma 2 and Mistral refuse two questions in a row."""
    if [turn["role"] for turn in turns] != ["user", "user"]:
        return turns
    return [{"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}]


def one_call_per_turn(turns: Turns) -> Turns:
    """Llama 3 refuses parallel calls, GigaChat and gpt-oss leave all but the first out."""
    place = next((at for at, turn in enumerate(turns) if len(turn.get("tool_calls", ())) == 2), None)
    if place is None:
        return turns
    first, second = turns[place]["tool_calls"]
    calls = [{**turns[place], "tool_calls": [first]}, {"role": "assistant", "content": "", "tool_calls": [second]}]
    return [*turns[:place], calls[0], turns[place + 1], calls[1], turns[place + 2], *turns[place + 3 :]]


def one_thought(turns: Turns) -> Turns:
    """gpt-oss takes thinking or text before a call, not both."""
    return [
        {**turn, "content": "", "reasoning_content": f"{turn['reasoning_content']}\n\n{turn['content']}"}
        if turn.get("tool_calls") and turn.get("reasoning_content") and turn["content"]
        else turn
        for turn in turns
    ]


def text_arguments(turns: Turns) -> Turns:
    """Functionary 3.2 joins the arguments to a text."""
    turns = copy.deepcopy(turns)
    for call in (call for turn in turns for call in turn.get("tool_calls", ())):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return turns


def no_text_with_calls(turns: Turns) -> Turns:
    """R1 Distill Llama shows calls only where the content is null, and joins their arguments to a text."""
    told = []
    for turn in text_arguments(turns):
        if turn.get("tool_calls") and turn["content"]:
            told.append({key: value for key, value in turn.items() if key != "tool_calls"})
        told.append({**turn, "content": None} if turn.get("tool_calls") else turn)
    return told


TOLD_DIFFERENTLY: dict[str, tuple[Callable[[Turns], Turns], ...]] = {
    "google-gemma-2-2b-it": (system_in_user_turn, neighbours_merged),
    "mistralai-Mistral-Nemo-Instruct-2407": (neighbours_merged,),
    "mistralai-Ministral-3-14B-Reasoning-2512": (neighbours_merged,),
    "Mistral-Small-3.2-24B-Instruct-2506": (neighbours_merged,),
    "meta-llama-Llama-3.1-8B-Instruct": (one_call_per_turn,),
    "meta-llama-Llama-3.2-3B-Instruct": (one_call_per_turn,),
    "meta-llama-Llama-3.3-70B-Instruct": (one_call_per_turn,),
    "GigaChat3-10B-A1.8B": (one_call_per_turn,),
    "GigaChat3.1-10B-A1.8B": (one_call_per_turn,),
    "openai-gpt-oss-120b": (one_call_per_turn, one_thought),
    "meetkai-functionary-medium-v3.2": (text_arguments,),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": (no_text_with_calls,),
}
# They iterate over `tools` also when there are none, where transformers passes None.
NO_TOOLS_IS_A_LIST = {
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
}
# FireFunction's model card has its users pass these two themselves.
READS_FUNCTIONS = {"fireworks-ai-llama-3-firefunction-v2"}
# transformers' sandbox refuses list.append, and its tojson refuses what `map` makes.
STOPPED_BY_THE_SANDBOX = {"Kimi-K2-Instruct", "Kimi-K2-Thinking", "llama-cpp-deepseek-r1"}

_NO_TOOL_ROLE = "Gemma 2 knows no tools"
_ADDITIONAL = "Command R+ wants every object property to say additionalProperties"
REFUSED = {
    **{("google-gemma-2-2b-it", row.name): _NO_TOOL_ROLE for row in MATRIX if row.has_calls},
    ("CohereForAI-c4ai-command-r-plus-tool_use", "tools and a system text"): _ADDITIONAL,
    ("CohereForAI-c4ai-command-r-plus-tool_use", "nested arguments"): _ADDITIONAL,
    ("mistralai-Ministral-3-14B-Reasoning-2512", "empty content"): "Ministral 3 refuses an answer without text",
}


@pytest.fixture(autouse=True)
def _transformers_has_the_same_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return NOW

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


def told(name: str, row: Conversation) -> Turns:
    turns = copy.deepcopy(row.turns)
    for turn in turns:
        # Every template takes text as a string; test_chat_template has one that wants parts.
        if isinstance(turn["content"], list):
            turn["content"] = "".join(part["text"] for part in turn["content"])
    for adaptation in TOLD_DIFFERENTLY.get(name, ()):
        turns = adaptation(turns)
    return turns


# Where a level of thinking, or none, has another name or another word.
OWN_WORDS: dict[tuple[str, object], dict[str, str]] = {
    ("Cohere2MoE", False): {"reasoning_effort": "none"},
    ("Kimi-K3", "high"): {"thinking_effort": "high"},
    ("tencent-Hy3", False): {"reasoning_effort": "no_think"},
}


def reference(name: str, source: str, row: Conversation) -> str | None:
    """What transformers renders; None where it refuses."""
    variables: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
    if row.think is not None:
        mode = "enabled" if row.think else "disabled"
        variables |= {"enable_thinking": bool(row.think), "thinking": bool(row.think), "thinking_mode": mode}
    if isinstance(row.think, str):
        variables["reasoning_effort"] = row.think
    variables |= OWN_WORDS.get((name, row.think), {})
    if name in READS_FUNCTIONS:
        functions = [tool["function"] for tool in row.tools]
        variables["functions"] = json.dumps(functions, indent=4, ensure_ascii=False)
        variables["datetime"] = "2031-02-03 04:05:06"
    if name in STOPPED_BY_THE_SANDBOX:
        environment = chat_template_utils._compile_jinja_template(source).environment
        environment.is_safe_attribute = lambda owner, attribute, value: not attribute.startswith("_")
        environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False, default=list)
    tools = row.tools or ([] if name in NO_TOOLS_IS_A_LIST else None)
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            [told(name, row)], tools, chat_template=source, add_generation_prompt=row.prompts, **variables
        )
    except Exception:  # noqa: BLE001, a template may raise anything there
        return None
    return rendered[0]


def ours(template: ChatTemplate, row: Conversation) -> str | None:
    request = row.as_request()
    assert request.messages is not None
    try:
        return template.render(request.messages, request.tools, think=request.think, add_generation_prompt=row.prompts)
    except TemplateError:
        return None


def names() -> list[str]:
    try:
        return sorted(upstream_templates())
    except pytest.skip.Exception:
        return []  # the test that counts them says why


def test_there_are_seventy_templates_and_a_matrix_of_conversations():
    assert 70 == len(upstream_templates())
    assert len(MATRIX) >= 12


@pytest.mark.parametrize("name", names())
def test_a_template_renders_what_transformers_renders(name):
    source = upstream_templates()[name]
    template = ChatTemplate(source, bos_token="<s>", eos_token="</s>", today=lambda: NOW)
    expected = {row.name: reference(name, source, row) for row in MATRIX}
    assert expected == {row.name: ours(template, row) for row in MATRIX}
    refused = {(name, row) for row, text in expected.items() if text is None}
    assert {key for key in REFUSED if key[0] == name} == refused
