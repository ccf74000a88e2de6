"""Ollama's `context`: what an exchange leaves behind, and how a prompt goes on from it."""

from __future__ import annotations

import itertools
from datetime import datetime

import msgspec
import pytest

from localllm.engine.fake import FakeBackend
from localllm.engine.sequence import Finish, SequenceOutput, SequenceStats
from localllm.errors import BadRequestError, TemplateError
from localllm.generation import ContentDelta, Finished, GenerationRequest, Message, Options, ThinkingDelta
from localllm.runner.answer import Stream
from localllm.runner.conversation import Conversations, Sources
from localllm.runner.exchange import tail

CHATML = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>\n{% endfor %}<assistant>"
SHOUTING = "{% for m in messages %}<{{ m.role }}>{{ m.content | upper }}</>\n{% endfor %}<assistant>"
STATS = SequenceStats(10, 5, 0.25, 0.5, 1.0)
THINKING = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}\n"
    "{% endfor %}<assistant>{% if enable_thinking %}<think>\n{% endif %}"
)
END = 99


def conversations(template=CHATML, **backend_options):
    seeds = itertools.count(100)
    sources = Sources(lambda: next(seeds), lambda: "call_abcd1234", lambda: datetime(2026, 1, 2))
    return Conversations(FakeBackend(**backend_options), template, sources)


def prompt_of(request, template=CHATML, **backend_options):
    return bytes(conversations(template, **backend_options).prepare(1, request).sequence.prompt).decode()


def finished(request, *outputs, reason="stop", stop_text=None, template=CHATML) -> Finished:
    stream = Stream(conversations(template).prepare(1, request))
    for output in outputs[:-1]:
        stream.events(output)
    end = outputs[-1]
    final = SequenceOutput(end.id, end.text, end.tokens, finish=Finish(reason, STATS, stop_text))
    found = stream.events(final)[-1]
    assert isinstance(found, Finished)
    return found


ASKED = GenerationRequest("m", prompt="hi", returns_context=True)


def said(text: str, *more: int) -> SequenceOutput:
    return SequenceOutput(1, text, (*text.encode(), *more))


def test_an_exchange_leaves_the_tokens_of_prompt_and_answer_without_its_end():
    found = finished(ASKED, said("yes"), said("!", END))
    assert b"<user>hi</>\n<assistant>yes!" == bytes(found.context)


def test_an_answer_that_was_cut_leaves_all_of_its_tokens():
    assert b"<user>hi</>\n<assistant>yes" == bytes(finished(ASKED, said("yes"), reason="length").context)


def test_an_answer_that_a_stop_text_ended_leaves_what_was_told_of_it():
    cut = SequenceOutput(1, "ye", tuple(b"yes"))
    assert b"<user>hi</>\n<assistant>ye" == bytes(finished(ASKED, cut, stop_text="s").context)


def test_nothing_is_left_where_nobody_asks():
    assert () == finished(GenerationRequest("m", prompt="hi"), said("yes", END)).context


def test_a_prompt_that_goes_on_is_what_the_template_makes_of_the_whole_conversation():
    context = tuple(b"<user>hi</>\n<assistant>yes")
    going_on = GenerationRequest("m", prompt="and?", context_tokens=context)
    turns = (Message("user", "hi"), Message("assistant", "yes"), Message("user", "and?"))
    assert prompt_of(GenerationRequest("m", messages=turns)) == prompt_of(going_on)


def test_a_template_that_shows_no_earlier_answer_writes_the_new_turns_behind_the_context():
    going_on = GenerationRequest("m", prompt="and?", context_tokens=tuple(b"before "))
    assert "before <user>AND?</>\n<assistant>" == prompt_of(going_on, SHOUTING)


def test_turns_that_a_template_takes_alone_only_are_taken_alone():
    def render(messages):
        if any(message.role == "system" for message in messages[1:]):
            raise TemplateError("system comes first")
        return "".join(message.content for message in messages)

    turns = (Message("system", "s"), Message("user", "u"))
    assert ("su", "u") == (tail(render, turns), tail(render, turns[1:]))


def test_the_new_turns_may_have_the_word_that_the_tail_is_found_by():
    going_on = GenerationRequest("m", prompt="Zanswer, please", context_tokens=tuple(b"before"))
    assert "before</>\n<user>Zanswer, please</>\n<assistant>" == prompt_of(going_on)


def test_a_context_that_does_not_fit_is_cut_at_its_beginning_if_that_is_allowed():
    context, asked = tuple(b"x" * 300), Options(num_ctx=100, num_predict=10)
    request = GenerationRequest("m", prompt="and?", context_tokens=context, options=asked, context_policy="truncate")
    prepared = conversations(pool_tokens=1000).prepare(1, request)
    assert 90 == len(prepared.sequence.prompt)
    assert prepared.dropped_tokens == 300 - bytes(prepared.sequence.prompt).count(b"x")
    whole = conversations(pool_tokens=1000).prepare(1, msgspec.structs.replace(request, context_policy="refuse"))
    assert (0, 300) == (whole.dropped_tokens, bytes(whole.sequence.prompt).count(b"x"))


def test_a_template_that_the_request_brings_writes_its_prompt_and_no_others():
    both = conversations(THINKING)
    asked = GenerationRequest("m", prompt="hi", system="s", template="[{{ .System }}] {{ .Prompt }} =>")
    assert b"[s] hi =>" == bytes(both.prepare(1, asked).sequence.prompt)
    assert b"<user>hi\n<assistant>" == bytes(both.prepare(2, ASKED).sequence.prompt)
    with pytest.raises(TemplateError):
        both.prepare(3, msgspec.structs.replace(asked, template="{{ .Nothing.At.All | nope }}"))


def test_the_answer_behind_such_a_template_is_read_as_the_models_own_format_has_it():
    request = GenerationRequest("m", prompt="hi", template="{{ .Prompt }}<think>\n")
    found = Stream(conversations(THINKING).prepare(1, request)).events(said("hm\n</think>\n\nyes"))
    assert [ThinkingDelta("hm"), ContentDelta("yes")] == found


def test_tokens_that_the_model_does_not_have_are_refused():
    with pytest.raises(BadRequestError, match="there is no token 999999"):
        conversations().prepare(1, GenerationRequest("m", prompt="x", context_tokens=(999999,)))


def test_tokens_of_thinking_are_counted_apart():
    request = GenerationRequest("m", prompt="hi", think=True)
    found = finished(request, said("hm"), said("m\n</think>"), said("\n\nyes", END), template=THINKING)
    assert len("hmm\n</think>") == found.usage.thinking_tokens
