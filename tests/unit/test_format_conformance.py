"""What every known template writes is parsed back: calls, thinking and text, however the text is cut into pieces."""

from __future__ import annotations

import itertools
import json
import random
import re
from datetime import datetime

import pytest
from chat_templates import upstream_templates

from localllm.chat.formats import OutputFormat, detect
from localllm.chat.parser import OutputParser
from localllm.chat.syntax import common_length
from localllm.chat.template import ChatTemplate
from localllm.errors import TemplateError
from localllm.generation import ContentDelta, Event, Message, ThinkingDelta, Tool, ToolCall, ToolCallDelta

CAPABILITIES_TABLE = """
Apertus-8B-Instruct                           CallSyntax    -
Apriel-1.6-15b-Thinker-fixed                  CallSyntax    -
Bielik-11B-v3.0-Instruct                      CallSyntax    thinking
ByteDance-Seed-OSS                            TaggedSyntax  thinking
Cohere2MoE                                    CallSyntax    thinking
CohereForAI-c4ai-command-r-plus-tool_use      CallSyntax    -
CohereForAI-c4ai-command-r7b-12-2024-tool_use CallSyntax    thinking
GLM-4.6                                       TaggedSyntax  thinking
GLM-4.7-Flash                                 TaggedSyntax  thinking
GigaChat3-10B-A1.8B                           -             -
GigaChat3.1-10B-A1.8B                         CallSyntax    -
HuggingFaceTB-SmolLM3-3B                      -             thinking
Kimi-K2-Instruct                              TaggedSyntax  -
Kimi-K2-Thinking                              TaggedSyntax  thinking
Kimi-K3                                       -             -
LFM2-8B-A1B                                   PythonSyntax  -
LFM2.5-8B-A1B                                 PythonSyntax  thinking
LFM2.5-Instruct                               PythonSyntax  thinking
MiMo-VL                                       CallSyntax    -
MiniMax-M1                                    CallSyntax    -
MiniMax-M2                                    TaggedSyntax  thinking
MiniMax-M3                                    -             thinking
Mistral-Small-3.2-24B-Instruct-2506           TaggedSyntax  -
NVIDIA-Nemotron-3-Nano-30B-A3B-BF16           TaggedSyntax  thinking
NVIDIA-Nemotron-Nano-v2                       CallSyntax    thinking
NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use CallSyntax    -
NousResearch-Hermes-3-Llama-3.1-8B-tool_use   CallSyntax    -
Qwen-QwQ-32B                                  CallSyntax    thinking
Qwen-Qwen2.5-7B-Instruct                      CallSyntax    -
Qwen-Qwen3-0.6B                               CallSyntax    thinking
Qwen3-Coder                                   TaggedSyntax  -
Qwen3.5-4B                                    TaggedSyntax  thinking
Reka-Edge                                     CallSyntax    thinking
Spark2.5                                      TaggedSyntax  thinking
StepFun3.5-Flash                              TaggedSyntax  thinking
deepseek-ai-DeepSeek-R1-Distill-Llama-8B      -             thinking
deepseek-ai-DeepSeek-R1-Distill-Qwen-32B      -             thinking
deepseek-ai-DeepSeek-V3.1                     -             thinking
deepseek-ai-DeepSeek-V3.2                     TaggedSyntax  thinking
deepseek-ai-DeepSeek-V4                       TaggedSyntax  thinking
deepseek-ai-DeepSeek-V4-Flash-0731            TaggedSyntax  thinking
fireworks-ai-llama-3-firefunction-v2          CallSyntax    -
google-gemma-2-2b-it                          -             -
google-gemma-4-31B-it                         GemmaSyntax   thinking
google-gemma-4-31B-it-interleaved             GemmaSyntax   thinking
ibm-granite-granite-3.3-2B-Instruct           CallSyntax    thinking
ibm-granite-granite-4.0                       CallSyntax    -
ibm-granite-granite-4.1                       CallSyntax    -
inclusionai-ling-3.0-flash                    TaggedSyntax  thinking
llama-cpp-deepseek-r1                         TaggedSyntax  thinking
llama-cpp-rwkv-world                          -             thinking
meetkai-functionary-medium-v3.1               TaggedSyntax  -
meetkai-functionary-medium-v3.2               -             -
meta-llama-Llama-3.1-8B-Instruct              CallSyntax    -
meta-llama-Llama-3.2-3B-Instruct              CallSyntax    -
meta-llama-Llama-3.3-70B-Instruct             CallSyntax    -
microsoft-Phi-3.5-mini-instruct               -             -
mistralai-Ministral-3-14B-Reasoning-2512      TaggedSyntax  thinking
mistralai-Mistral-Nemo-Instruct-2407          CallSyntax    -
moonshotai-Kimi-K2                            TaggedSyntax  -
muse-glimmer                                  -             -
openai-gpt-oss-120b                           -             -
openbmb-MiniCPM5-1B                           TaggedSyntax  thinking
poolside-Laguna-S-2.1                         TaggedSyntax  thinking
poolside-Laguna-XS-2.1                        TaggedSyntax  thinking
poolside-Laguna-XS.2                          TaggedSyntax  thinking
tencent-Hy3                                   TaggedSyntax  thinking
unsloth-Apriel-1.5                            CallSyntax    -
unsloth-mistral-Devstral-Small-2507           TaggedSyntax  -
upstage-Solar-Open-100B                       TaggedSyntax  -
"""
CAPABILITIES = {
    name: (calls, thinking) for name, calls, thinking in map(str.split, CAPABILITIES_TABLE.split("\n")[1:-1])
}

# Cases that cannot be read back, and why.
_TURNS = dict.fromkeys(["two calls"], "its template shows one call per turn, so that these are two answers")
_CHANNEL = dict.fromkeys(["text"], "the name of a channel stands before the text; such answers are not read yet")
_OWN_TEXT = dict.fromkeys(["text and a call", "text", "thinking"], "its template writes answers behind an open <think>")
LOSSES: dict[str, dict[str, str]] = {
    "GigaChat3.1-10B-A1.8B": _TURNS,
    "meta-llama-Llama-3.1-8B-Instruct": _TURNS,
    "meta-llama-Llama-3.2-3B-Instruct": _TURNS,
    "meta-llama-Llama-3.3-70B-Instruct": _TURNS,
    "LFM2.5-8B-A1B": {"code": "its template writes line breaks into Python's texts as they are"},
    "NVIDIA-Nemotron-Nano-v2": _OWN_TEXT,
    "meetkai-functionary-medium-v3.2": _CHANNEL,
    "muse-glimmer": _CHANNEL,
    "openai-gpt-oss-120b": _CHANNEL,
}
# Command R+ wants a schema of each object property and array item that these tools do not have.
REFUSES = {"CohereForAI-c4ai-command-r-plus-tool_use"}
SORTS_ARGUMENTS = {"google-gemma-4-31B-it", "google-gemma-4-31B-it-interleaved"}
# They end a turn, and are end-of-generation tokens of their vocabularies.
TURN_ENDS = ("<SPECIAL_12>", "<|tool_response>", "<｜hy_eos:opensource｜>")

SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "rate": {"type": "number"},
        "on": {"type": "boolean"},
        "tags": {"type": "array", "items": {}},
        "more": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def tool(name: str) -> Tool:
    function = {"name": name, "description": f"Does {name}.", "parameters": SCHEMA}
    return Tool(name, json.dumps({"type": "function", "function": function}))


TOOLS = (tool("do_it"), tool("do_more"))
QUESTION = Message("user", "Zquestion?")
CODE = 'if a < b and "x" != \'y\':\n    print(f"{a}\\n")  # </b> é 漢字 🙂'
CASES: dict[str, Message] = {
    "a call": Message("assistant", tool_calls=(ToolCall("abcd12345", "do_it", '{"text": "Zürich", "count": 3}'),)),
    "no arguments": Message("assistant", tool_calls=(ToolCall("abcd12345", "do_it", "{}"),)),
    "order": Message(
        "assistant", tool_calls=(ToolCall("abcd12345", "do_it", '{"rate": 0.5, "count": 3, "text": "3"}'),)
    ),
    "code": Message("assistant", tool_calls=(ToolCall("abcd12345", "do_it", json.dumps({"text": CODE, "on": False})),)),
    "nested": Message(
        "assistant",
        tool_calls=(ToolCall("abcd12345", "do_it", '{"tags": [1, "a", [true, null]], "more": {"k": {"l": "m"}}}'),),
    ),
    "two calls": Message(
        "assistant",
        tool_calls=(
            ToolCall("abcd12345", "do_it", '{"text": "a"}'),
            ToolCall("efgh67890", "do_more", '{"count": 1}'),
        ),
    ),
    "text and a call": Message(
        "assistant", "I will look.", tool_calls=(ToolCall("abcd12345", "do_it", '{"text": "a b"}'),)
    ),
    "text": Message("assistant", "It is < 5 [or so] {really}."),
    "thinking": Message("assistant", "It is.", thinking="I think {so} < far.\nYes."),
    "thinking and a call": Message(
        "assistant", thinking="Let me see.", tool_calls=(ToolCall("abcd12345", "do_it", '{"text": "a"}'),)
    ),
}


def opened(name: str) -> ChatTemplate:
    source = upstream_templates()[name]
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>", today=lambda: datetime(2031, 2, 3))


def written(template: ChatTemplate, found: OutputFormat, reply: Message) -> tuple[str, bool] | None:
    """What the model would have generated for `reply`, and whether it begins inside thinking; None when refused."""

    def show(*turns: Message, prompts: bool = False) -> str:
        turns = (QUESTION, *turns)
        return template.render(turns, TOOLS, think=reply.thinking is not None, add_generation_prompt=prompts)

    try:
        prompt, full, plain = show(prompts=True), show(reply), show(Message("assistant", "Zanswer"))
    except TemplateError:
        return None
    begin = _whole_tags(full, common_length(prompt, full))
    end = _whole_tags(full, len(full) - common_length(full[begin:][::-1], plain[::-1]))
    text = as_detokenized(full[begin:end], found)
    # Behind a prompt that opens thinking, a model that does not think begins with the end of it.
    ends_thinking = found.thinking is not None and text.startswith(found.thinking.end)
    return text, ends_thinking or found.opens_thinking(full[:begin])


def _whole_tags(text: str, at: int) -> int:
    """The place, or where the tag begins that `at` lies in."""
    cut = re.search(r"<[^<>\s]*\Z|\[[^\[\]\s]*\Z", text[:at])
    return cut.start() if cut else at


def as_detokenized(text: str, found: OutputFormat) -> str:
    """The engine drops the text of control tokens that are not preserved, as <|START_RESPONSE|> is not."""
    for end in TURN_ENDS:
        text = text.removesuffix("\n").removesuffix(end)
    return re.sub(r"<\|\w+\|>", lambda tag: tag.group() if tag.group() in "".join(found.markers) else "", text)


def normal(arguments: str, is_sorted: bool) -> str:
    return json.dumps(json.loads(arguments), sort_keys=is_sorted)


def parsed(found: OutputFormat, pieces: list[str], opens: bool, is_sorted: bool) -> list[tuple[str, ...]]:
    numbers = itertools.count()
    parser = OutputParser(found, TOOLS, prompt_opens_thinking=opens, new_call_id=lambda: f"call_{next(numbers)}")
    events: list[Event] = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
    said = {"thinking": "", "content": ""}
    calls: list[tuple[str, str]] = []
    for event in events:
        match event:
            case ThinkingDelta(text):
                said["thinking"] += text
            case ContentDelta(text):
                said["content"] += text
            case ToolCallDelta(_, _, str(name), _):
                calls.append((name, ""))
            case ToolCallDelta(_, _, _, arguments):
                calls[-1] = (calls[-1][0], calls[-1][1] + arguments)
    return [
        ("thinking", said["thinking"].strip()),
        ("content", said["content"].strip()),
        *((name, normal(arguments, is_sorted)) for name, arguments in calls),
    ]


def expected(reply: Message, text: str, is_sorted: bool) -> list[tuple[str, ...]]:
    """What stands in the text: some templates leave thinking out, or text beside a call, or the calls."""
    thinking = reply.thinking if reply.thinking and reply.thinking in text else ""
    content = reply.content if reply.content in text else ""
    calls = [call for call in reply.tool_calls if call.name in text]
    return [
        ("thinking", thinking),
        ("content", content),
        *((call.name, normal(call.arguments, is_sorted)) for call in calls),
    ]


def names() -> list[str]:
    try:
        return sorted(upstream_templates())
    except pytest.skip.Exception:
        return []  # test_render_conformance says why


def cases_of(name: str, found: OutputFormat) -> dict[str, Message]:
    """The replies that this model can give."""
    if name in REFUSES:
        return {}
    return {
        case: reply
        for case, reply in CASES.items()
        if (found.calls or not reply.tool_calls)
        and (found.thinking or not reply.thinking)
        and case not in LOSSES.get(name, ())
    }


def test_the_table_has_every_template():
    assert sorted(upstream_templates()) == sorted(CAPABILITIES)
    assert {*LOSSES, *REFUSES, *SORTS_ARGUMENTS} <= set(CAPABILITIES)


@pytest.mark.parametrize("name", names())
def test_what_a_template_writes_is_parsed_back(name):
    template = opened(name)
    found = detect(template)
    syntax = type(found.calls).__name__ if found.calls else "-"
    assert CAPABILITIES[name] == (syntax, "thinking" if found.thinking else "-")
    chance = random.Random(name)
    is_sorted = name in SORTS_ARGUMENTS
    for case, reply in cases_of(name, found).items():
        answer = written(template, found, reply)
        assert answer is not None, case
        text, opens = answer
        cuts = sorted(chance.sample(range(len(text) + 1), min(5, len(text))))
        pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
        for cutting in ([text], list(text), pieces):
            assert (case, expected(reply, text, is_sorted)) == (case, parsed(found, cutting, opens, is_sorted))
