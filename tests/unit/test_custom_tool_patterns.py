"""The input of a custom tool of OpenAI's Responses matches its regular expression."""

from __future__ import annotations

import re

import pytest
from chat_templates import upstream_templates
from custom_tools import asked
from random_answers import answers

from localllm.dialects.openai_responses_tools import custom_input
from localllm.errors import BadRequestError

MONTH = r"^(?P<month>May|June)\s(?P<day>\d{1,2})(?:st|nd)?$"
# JSON, and texts as they are: with a key of their own, and between tags.
TEMPLATES = ["Qwen-Qwen3-0.6B", "Qwen3-Coder", "GLM-4.6", "google-gemma-4-31B-it", "LFM2-8B-A1B"]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("pattern", [MONTH, r"a|b\$|\[\"\\", r"^(x|y){3}$"])
def test_an_input_matches_its_regular_expression_from_start_to_end(name, pattern):
    for said in answers(asked("regex", pattern), upstream_templates()[name]):
        assert [called for called, _ in said.calls] == ["note"] * len(said.calls) != []
        for _, arguments in said.calls:
            assert re.fullmatch(pattern, custom_input(arguments))


def test_a_regular_expression_that_cannot_be_kept_is_refused_and_not_left_out():
    with pytest.raises(BadRequestError, match="note"):
        answers(asked("regex", r"(?=a)b", "auto"), upstream_templates()["Qwen-Qwen3-0.6B"])
