"""Models unlike those seen: templates with other tags and blanks, and answers that are any mixture of marks."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable
from datetime import datetime

import pytest
import test_format_conformance as conformance
from chat_templates import upstream_templates

from localllm.chat.formats import OutputFormat, detect
from localllm.chat.parser import OutputParser
from localllm.chat.template import ChatTemplate
from localllm.generation import ContentDelta, ThinkingDelta, ToolCallDelta


def renamed(**tags: str) -> Callable[[str], str]:
    """Other names of tags: what stands for `think` and so on, with its end."""

    def change(source: str) -> str:
        for name, start in tags.items():
            opening = re.match(r"<\|?|\[", start).group()
            end = f"{opening}/{start.removeprefix(opening)}"
            source = source.replace(f"<{name}>", start).replace(f"</{name}>", end)
        return source

    return change


MUTATIONS: dict[str, Callable[[str], str]] = {
    "reasoning": renamed(think="<reasoning>"),
    "scratchpad": renamed(think="<scratchpad>"),
    "reflect": renamed(think="<|reflect|>"),
    "thinking in brackets": renamed(think="[THINKING]"),
    "other calls": renamed(tool_call="<action>"),
    "other functions": lambda source: source.replace("<function=", "<fn=").replace("</function>", "</fn>"),
    "other turns": lambda source: source.replace("<|im_start|>", "<|turn|>").replace("<|im_end|>", "<|over|>"),
    "CRLF": lambda source: source.replace("\n", "\r\n"),
    "other keys": lambda source: source.replace('"arguments": ', '"args": '),
    "no system role": lambda source: source.replace("|>system", "|>user"),
    "blanks around values": lambda source: source.replace(">\\n' }}", ">  ' }}").replace(
        "'\\n</parameter>", "'\\n\\n  </parameter>"
    ),
    "never asks": lambda source: "{%- set add_generation_prompt = false -%}" + source,
}
# What their prompts end with says in words what follows, or stands in all answers as a part of what differs.
SAY_MORE_IN_PROMPTS = {"Apriel-1.6-15b-Thinker-fixed", "meetkai-functionary-medium-v3.2"}
# Their templates show no thinking and cut none: they tell of it in words, or leave an empty pair to other variables.
TELL_IN_WORDS = {"HuggingFaceTB-SmolLM3-3B", "ibm-granite-granite-3.3-2B-Instruct"}
SAMPLE = [
    "Qwen-Qwen3-0.6B",
    "Qwen-QwQ-32B",
    "Qwen3-Coder",
    "deepseek-ai-DeepSeek-V3.1",
    "GLM-4.6",
    "Kimi-K2-Thinking",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "meetkai-functionary-medium-v3.2",
    "openai-gpt-oss-120b",
    "meta-llama-Llama-3.1-8B-Instruct",
]


def opened(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>", today=lambda: datetime(2031, 2, 3))


def read_back(name: str, template: ChatTemplate, found: OutputFormat) -> dict[str, bool]:
    """Which of the conversations that the template writes are read back, whole and character by character."""
    is_sorted, good = name in conformance.SORTS_ARGUMENTS, {}
    for case, reply in conformance.cases_of(name, found).items():
        shown = conformance.written(template, found, reply)
        if shown is None:
            continue
        text, prompt, opens = conformance.as_detokenized(shown[0], found), shown[1], shown[2]
        expected = conformance.expected(reply, text, is_sorted)
        said = [conformance.parsed(found, cut, prompt, opens, is_sorted, early=False) for cut in ([text], list(text))]
        good[case] = said == [expected, expected]
    return good


def check_mutations(name: str) -> None:
    source = upstream_templates()[name]
    before = opened(source)
    found_before = detect(before)
    good_before = read_back(name, before, found_before)
    for mutation, change in MUTATIONS.items():
        changed = change(source)
        is_told_in_words = name in TELL_IN_WORDS and mutation not in ("CRLF", "other turns", "no system role")
        if changed == source or is_told_in_words or (mutation == "never asks" and name in SAY_MORE_IN_PROMPTS):
            continue
        template = opened(changed)
        found = detect(template)
        assert (mutation, found_before.capabilities) == (mutation, found.capabilities)
        good = read_back(name, template, found)
        assert (mutation, good_before) == (mutation, good)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_template_with_other_tags_and_blanks_is_understood_as_well(name):
    check_mutations(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", conformance.names())
def test_every_template_with_other_tags_and_blanks_is_understood_as_well(name):
    check_mutations(name)


def events(found: OutputFormat, pieces: list[str], tools, *, opens: bool, stopped: bool) -> tuple[list[list], bool]:
    numbers = itertools.count()
    parser = OutputParser(found, tools, prompt_opens_thinking=opens, new_call_id=lambda: f"call_{next(numbers)}")
    said: list[list] = []
    for event in [*itertools.chain(*map(parser.feed, pieces)), *parser.finish(stopped=stopped)]:
        match event:
            case ThinkingDelta(text) | ContentDelta(text):
                kind = type(event).__name__
                if said and said[-1][0] == kind:
                    said[-1][1] += text
                else:
                    said.append([kind, text])
            case ToolCallDelta(index, call_id, str(name), arguments):
                said.append([index, call_id, name, arguments or ""])
            case ToolCallDelta(_, _, _, arguments):
                said[-1][-1] += arguments
    return said, parser.has_unfinished_call


PLAIN_WORDS = [
    *"{}[]\"':,<>()= \n\\x3", "\r\n", "é", "🙂", "do_it", "text", "assistant", "functions.", "null", '{"text": "a"}',
    "<tool_call>", "<think>", "</think>", "<|python_tag|>", "to=", "all", "analysis", "<|message|>",
]  # fmt: skip


def some_text(chance: random.Random, words: list[str], good: list[str]) -> str:
    """What a template wrote with a few faults in it, or any mixture of words."""
    if not good or chance.random() < 0.5:
        return "".join(chance.choices(words, k=chance.randint(0, 25)))
    text = chance.choice(good) + chance.choice(["", "", *good])
    for _ in range(chance.randint(0, 3)):
        at = chance.randint(0, len(text))
        end = at + chance.randint(0, 6)
        text = text[:at] + chance.choice(["", chance.choice(words), text[at:end] * 2]) + text[end:]
    return text


def check_any_answer(name: str, times: int) -> None:
    check_answers(conformance.opened(name), name, times)


def check_answers(template: ChatTemplate, name: str, times: int) -> None:
    """Any text, of words or of what the template writes, comes out the same however it is cut, and its calls parse."""
    found = detect(template)
    chance = random.Random(name)
    marks = [*found.markers, *([found.channels.text] if found.channels else [])]
    words = [*PLAIN_WORDS, *(part for mark in marks for part in (mark, mark[: len(mark) // 2], mark[len(mark) // 2 :]))]
    shown = [conformance.written(template, found, reply) for reply in conformance.cases_of(name, found).values()]
    good = [one[0] for one in shown if one is not None]
    for _ in range(times):
        text = some_text(chance, words, good)
        tools = conformance.TOOLS if chance.random() < 0.8 else ()
        opens, stopped = found.thinking is not None and chance.random() < 0.3, chance.random() < 0.5
        cuts = sorted(chance.choices(range(len(text) + 1), k=4))
        pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
        said, *others = (
            events(found, one, tools, opens=opens, stopped=stopped) for one in ([text], list(text), pieces)
        )
        assert [said, said] == others, text
        calls = [one for one in said[0] if len(one) == 4]
        assert all(isinstance(json.loads(call[3]), dict) for call in calls), text
        letters = re.sub(r"\s", "", "".join(one[1] for one in said[0] if len(one) == 2))
        assert not letters or _is_part(letters, text), text


def _is_part(letters: str, text: str) -> bool:
    """Whether these letters stand in the text in this order."""
    waiting = iter(text)
    return all(letter in waiting for letter in letters)


@pytest.mark.parametrize("name", conformance.names())
def test_any_answer_says_the_same_however_it_is_cut_and_its_calls_parse(name):
    check_any_answer(name, 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", conformance.names())
def test_very_many_answers_say_the_same_however_they_are_cut(name):
    check_any_answer(name, 200)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x\n>>>>><|eot_id|> y", "x\n>>>>> y"),
        ("a>>>>>>>do_it\n{}", "a>>>>"),
        ("x>>>>all\nb", "x>b"),
        ("x>>>al", "x>>>al"),
    ],
)
def test_a_start_that_may_be_none_waits_for_the_name_behind_it(text, expected):
    found = detect(conformance.opened("meetkai-functionary-medium-v3.2"))
    for cut in ([text], list(text), *([text[:at], text[at:]] for at in range(1, len(text)))):
        said, _ = events(found, cut, conformance.TOOLS, opens=False, stopped=True)
        assert expected == "".join(one[1] for one in said if len(one) == 2)
