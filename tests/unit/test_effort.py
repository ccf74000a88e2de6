"""How hard to think, in each template's own words."""

import json
from datetime import datetime

import pytest
from chat_templates import upstream_templates

from localllm.chat.effort import NAMES, Efforts
from localllm.chat.template import ChatTemplate
from localllm.generation import Message

LEVELS = (False, "low", "medium", "high", "max")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("openai-gpt-oss-120b", (None, "low", "medium", "high", "high")),
        ("tencent-Hy3", ("no_think", "low", "high", "high", "high")),
        ("Kimi-K3", (None, "low", "high", "high", "max")),
        ("deepseek-ai-DeepSeek-V4", (None, None, None, None, "max")),
        ("Qwen-Qwen3-0.6B", (None,) * 5),
    ],
)
def test_a_level_is_said_in_the_templates_own_word_or_not_at_all(name, words):
    template = ChatTemplate(upstream_templates()[name], bos_token="", eos_token="", today=lambda: datetime(2031, 2, 3))
    efforts = Efforts(template._program.variables, template._show_question)
    assert words == tuple(next(iter(efforts.variables(level).values()), None) for level in LEVELS)


def test_no_level_makes_a_template_that_knows_levels_refuse():
    for source in upstream_templates().values():
        if any(name in source for name in NAMES):
            template = ChatTemplate(source, bos_token="", eos_token="", today=lambda: datetime(2031, 2, 3))
            for level in (*LEVELS, True, None):
                assert "Zquestion" in template.render([Message("user", "Zquestion")], think=level)


def test_a_level_is_asked_for_once():
    asked = []

    def show(variables):
        asked.append(json.dumps(variables))
        return str(variables["reasoning_effort"] == "low")

    efforts = Efforts({"reasoning_effort"}, show)
    assert [{"reasoning_effort": "low"}] * 2 == [efforts.variables("low"), efforts.variables("low")]
    assert 2 == len(asked)
    assert [{}, {}] == [efforts.variables(True), efforts.variables(None)]


def test_a_level_that_is_said_without_being_asked_for_is_known_too():
    def show(variables):
        return f"Effort: {'high' if variables['reasoning_effort'] == 'high' else 'Max'}"

    efforts = Efforts({"reasoning_effort"}, show)
    assert {"reasoning_effort": "max"} == efforts.variables("max")
    assert {"reasoning_effort": "high"} == efforts.variables("high")
    assert {} == efforts.variables("low")
