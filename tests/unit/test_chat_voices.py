"""Which template a model talks by: its own, the one for tools, a known family's, or ChatML."""

from __future__ import annotations

import logging
from datetime import datetime

import pytest

from localllm.chat.known_templates import KNOWN_TEMPLATES, known_template
from localllm.chat.voices import Sources, Voices
from localllm.errors import TemplateError
from localllm.generation import Message

TALK = [Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "And?")]


def voices(sources: Sources, *tokens: str) -> Voices:
    return Voices(sources, lambda text: text in tokens, lambda: datetime(2031, 2, 3))


def test_a_request_with_tools_gets_the_template_that_is_named_for_them():
    both = voices(Sources("plain {{ messages[-1].content }}", "tools {{ messages[-1].content }}"))
    assert "tools And?" == both.of(has_tools=True).template.render(TALK)
    assert "plain And?" == both.of(has_tools=False).template.render(TALK)
    one = voices(Sources("plain {{ messages[-1].content }}"))
    assert one.of(has_tools=True) is one.of(has_tools=False)


def test_a_template_that_does_not_tell_of_tools_is_warned_about(caplog):
    calls = "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}"
    source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}" + calls + "{% endfor %}"
    source += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    assert voices(Sources(source)).of(has_tools=True).format.calls is not None
    assert ["the chat template shows calls, but does not tell the model which tools there are"] == caplog.messages
    caplog.clear()
    assert voices(Sources(source + "{{ tools }}")).of(has_tools=True).format.shows_tools
    assert [] == caplog.messages


def test_a_template_that_never_asks_for_an_answer_is_warned_about_and_helped(caplog):
    made = voices(Sources("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}")).of(has_tools=False)
    assert made.template.render(TALK).endswith("And?<|assistant|>")
    assert made.template.render(TALK).endswith("And?<|assistant|>")
    assert [
        "the chat template does not ask for answers: prompts end with '<|assistant|>', as its answers begin"
    ] == caplog.messages


def test_a_template_that_cannot_be_read_is_an_error_at_its_first_use():
    broken = voices(Sources("{{ 'fine' }}", "{% if %}"))
    assert "fine" == broken.of(has_tools=False).template.render(TALK)
    with pytest.raises(TemplateError, match="syntax error in line 1"):
        broken.of(has_tools=True)


LLAMA = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def turn(role: str, text: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>"


def test_without_a_template_the_vocabulary_says_which_family_it_is(caplog):
    found = voices(Sources(None, bos_token="<s>"), *LLAMA, "<|other|>").of(has_tools=False)
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Ho"), ("user", "And?")]
    expected = "<s>" + "".join(turn(*one) for one in turns) + "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert expected == found.template.render(TALK)
    assert [
        "the file has no chat template: by its tokens its conversations are written as Llama 3's"
    ] == caplog.messages


def test_a_vocabulary_that_nobody_knows_is_told_in_chatml_with_a_warning(caplog):
    found = voices(Sources("  ")).of(has_tools=False)
    assert found.template.is_default
    assert "<|im_start|>system\nBe brief.<|im_end|>\n" in found.template.render(TALK)
    assert logging.WARNING == caplog.records[0].levelno
    assert "ChatML, which may not suit it" in caplog.messages[0]


@pytest.mark.parametrize("known", KNOWN_TEMPLATES, ids=lambda known: known.name)
def test_every_known_template_shows_all_turns_with_its_own_tokens(known):
    assert known is known_template(lambda text: text in known.tokens)
    made = voices(Sources(None, bos_token="<s>", eos_token="</s>"), *known.tokens).of(has_tools=False).template
    shown = made.render(TALK)
    assert ["Be brief.", "Hi", "Ho", "And?"] == sorted(("Be brief.", "Hi", "Ho", "And?"), key=shown.rindex), shown
    assert shown.startswith(made.render(TALK, add_generation_prompt=False))
    used = [token for token in known.tokens if token in shown]
    assert len(used) >= min(2, len(known.tokens))
