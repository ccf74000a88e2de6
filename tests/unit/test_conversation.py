"""The child's text side: requests to tokens, engine outputs to events, on the fake model's bytes."""

import itertools
from datetime import datetime

import msgspec
import pytest

from localllm.answer_rules import Free, Held, Mark
from localllm.engine.backend import InfillTokens
from localllm.engine.fake import FakeBackend
from localllm.engine.sequence import Finish, SequenceOutput, SequenceStats
from localllm.errors import BadRequestError, TemplateError, UnsupportedError
from localllm.generation import (
    ContentDelta,
    FillIn,
    Finished,
    GenerationRequest,
    Message,
    Options,
    PromptProgress,
    Rendering,
    ResponseFormat,
    ThinkingDelta,
    Timings,
    TokenLogprob,
    Tool,
    ToolCallDelta,
    Usage,
)
from localllm.runner.answer import Stream
from localllm.runner.conversation import Conversations, Sources

THINKING_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls %}<tool_call>\n{{ c.function | tojson }}"
    "\n</tool_call>{% endfor %}{{ '\n' }}{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
    "<assistant>{% if enable_thinking %}<think>\n{% endif %}"
)
TOOL = Tool("add", '{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}')
STATS = SequenceStats(10, 5, 0.25, 0.5, 1.0)


def conversations(template=None, **backend_options):
    seeds = itertools.count(100)
    sources = Sources(lambda: next(seeds), lambda: "call_abcd1234", lambda: datetime(2026, 1, 2))
    return Conversations(FakeBackend(**backend_options), template, sources)


def prompt_of(prepared):
    return bytes(prepared.sequence.prompt).decode()


def test_a_conversation_is_rendered_by_the_models_template():
    request = GenerationRequest("m", messages=(Message("system", "be brief"), Message("user", "hi")))
    prepared = conversations().prepare(1, request)
    assert "<system>be brief\n<user>hi\n<assistant>" == prompt_of(prepared)


def test_a_prompt_and_its_system_text_become_a_conversation():
    request = GenerationRequest("m", prompt="hi", system="be brief")
    assert "<system>be brief\n<user>hi\n<assistant>" == prompt_of(conversations().prepare(1, request))


def test_a_raw_prompt_is_taken_as_it_is():
    prepared = conversations().prepare(1, GenerationRequest("m", prompt="<user>", raw=True))
    assert ("<user>", None) == (prompt_of(prepared), prepared.parser)


def test_token_ids_are_a_prompt_as_they_are_if_the_vocabulary_has_them():
    prepared = conversations().prepare(1, GenerationRequest("m", prompt_tokens=(104, 105)))
    assert ([104, 105], None) == (list(prepared.sequence.prompt), prepared.parser)
    with pytest.raises(BadRequestError, match="there is no token 257: the model's are 0 to 256"):
        conversations().prepare(1, GenerationRequest("m", prompt_tokens=(104, 257)))


def test_the_prompt_is_shown_with_the_tokens_the_model_would_get():
    assert ("<user>hi\n<assistant>", list(b"<user>hi\n<assistant>")) == conversations().render(
        GenerationRequest("m", prompt="hi")
    )


def test_tokens_are_told_as_their_bytes_if_the_vocabulary_has_them():
    assert [b"h", b"\xc3"] == conversations().detokenize((104, 195))
    with pytest.raises(BadRequestError, match="there is no token -1"):
        conversations().detokenize((-1,))


def test_a_gap_is_filled_by_the_models_own_marks():
    request = GenerationRequest("m", prompt="a(", fill_in=FillIn(")b"))
    prepared = conversations(infill=InfillTokens(1, 2, 3)).prepare(1, request)
    assert (b"\x01a(\x02)b\x03", None) == (bytes(prepared.sequence.prompt), prepared.parser)


def test_a_model_without_marks_for_a_gap_says_so():
    with pytest.raises(UnsupportedError, match='"m" does not support insert'):
        conversations().prepare(1, GenerationRequest("m", prompt="a", fill_in=FillIn("b")))


def test_the_text_around_a_gap_is_cut_only_if_that_was_asked_for_and_then_it_is_told():
    options = Options(num_ctx=64, num_predict=21)
    request = GenerationRequest("m", prompt="a" * 50, fill_in=FillIn("b" * 50), options=options)
    backend = {"infill": InfillTokens(1, 2, 3)}
    assert 103 == len(conversations(**backend).prepare(1, request).sequence.prompt)
    cutting = msgspec.structs.replace(request, context_policy="truncate")
    prepared = conversations(**backend).prepare(1, cutting)
    assert b"\x01" + 30 * b"a" + b"\x02" + 10 * b"b" + b"\x03" == bytes(prepared.sequence.prompt)
    (finished,) = Stream(prepared).events(SequenceOutput(1, finish=Finish("stop", STATS, "\n")))
    assert (60, "\n") == (finished.dropped_tokens, finished.stop_text)


def test_an_override_replaces_the_files_template():
    prepared = conversations("!{{ messages[0].content }}!").prepare(1, GenerationRequest("m", prompt="hi"))
    assert "!hi!" == prompt_of(prepared)


def test_numbers_nobody_said_get_a_seed_of_their_own_and_the_whole_context():
    sequence = conversations(pool_tokens=512).prepare(1, GenerationRequest("m", prompt="hi")).sequence
    assert (100, 512, None) == (sequence.seed, sequence.limit_tokens, sequence.max_new_tokens)


def test_a_request_bounds_its_own_context_and_answer():
    request = GenerationRequest("m", prompt="hi", options=Options(num_ctx=64, num_predict=7, seed=5, stop=("x",)))
    sequence = conversations(pool_tokens=512).prepare(1, request).sequence
    assert (5, 64, 7, ("x",)) == (sequence.seed, sequence.limit_tokens, sequence.max_new_tokens, sequence.stop)


def test_a_context_larger_than_the_models_is_the_models():
    request = GenerationRequest("m", prompt="hi", options=Options(num_ctx=100_000, num_predict=-1))
    sequence = conversations(pool_tokens=512).prepare(1, request).sequence
    assert (512, None) == (sequence.limit_tokens, sequence.max_new_tokens)


def test_an_empty_raw_prompt_is_refused():
    with pytest.raises(BadRequestError, match="the prompt is empty"):
        conversations().prepare(1, GenerationRequest("m", prompt="", raw=True))


def test_a_template_that_refuses_fails_the_request_with_its_own_words():
    with pytest.raises(TemplateError, match="only cats"):
        conversations("{{ raise_exception('only cats') }}").prepare(1, GenerationRequest("m", prompt="hi"))


def test_a_structured_answer_follows_free_thinking():
    request = GenerationRequest("m", prompt="hi", think=True, response_format=ResponseFormat("json_object"))
    thinking, answer = conversations(THINKING_TEMPLATE).prepare(1, request).sequence.constraint.rules.stages
    assert Free(marks=(Mark("</think>", 1),), must_go_on=True) == thinking
    assert isinstance(answer, Held)


def test_requests_that_ask_for_the_same_share_their_rules_and_others_do_not():
    talks = conversations(THINKING_TEMPLATE)

    def rules(words: str, **more: object):
        request = GenerationRequest("m", prompt=words, **{"response_format": ResponseFormat("json_object"), **more})
        return talks.prepare(1, request).sequence.constraint.rules

    assert rules("hi") is rules("other words")
    thoughtful = rules("hi", think=True)
    assert thoughtful != rules("hi", think=False)
    assert thoughtful != rules("hi", think=True, options=Options(thinking_budget=3))


def test_truncation_drops_the_oldest_turns_but_never_the_system_text_or_the_last():
    turns = tuple(Message("user" if n % 2 == 0 else "assistant", f"turn {n} " + "x" * 30) for n in range(9))
    messages = (Message("system", "rules"), *turns)
    request = GenerationRequest("m", messages=messages, options=Options(num_ctx=160), context_policy="truncate")
    prepared = conversations().prepare(1, request)
    text = prompt_of(prepared)
    assert text.startswith("<system>rules\n")
    assert text.endswith("turn 8 " + "x" * 30 + "\n<assistant>")
    assert 7 == prepared.dropped_messages
    assert len(text) < 160 <= len(text) + len("<assistant>turn 7 " + "x" * 30 + "\n")


def test_without_truncation_everything_is_sent_on_to_be_refused_with_its_numbers():
    messages = tuple(Message("user", "x" * 50) for _ in range(5))
    prepared = conversations().prepare(1, GenerationRequest("m", messages=messages, options=Options(num_ctx=64)))
    assert 0 == prepared.dropped_messages
    assert len(prepared.sequence.prompt) > prepared.sequence.limit_tokens


def stream_of(request, template=THINKING_TEMPLATE):
    return Stream(conversations(template).prepare(1, request))


def events(stream, *texts, reason="stop"):
    outputs = [SequenceOutput(1, text) for text in texts]
    outputs.append(SequenceOutput(1, finish=Finish(reason, STATS)))
    return [event for output in outputs for event in stream.events(output)]


def test_a_stream_begins_with_the_length_of_its_prompt_and_ends_with_its_cost():
    stream = stream_of(GenerationRequest("m", prompt="hi"))
    assert PromptProgress(0, len("<user>hi\n<assistant>")) == stream.started()
    expected = [
        ContentDelta("one"),
        ContentDelta(" two"),
        Finished("stop", Usage(10, 0, 5), Timings(queue_seconds=0.25, prefill_seconds=0.5, decode_seconds=1.0)),
    ]
    assert expected == events(stream, "one", " two")


def test_thinking_that_the_prompt_opened_is_told_apart():
    stream = stream_of(GenerationRequest("m", prompt="hi", think=True))
    assert [ThinkingDelta("hm"), ContentDelta("yes")] == events(stream, "hm\n</think>", "\n\nyes")[:-1]


def test_a_tool_call_comes_as_one_and_is_the_reason_for_the_end():
    stream = stream_of(GenerationRequest("m", prompt="hi", tools=(TOOL,)))
    *deltas, finished = events(stream, '<tool_call>\n{"name": "add", ', '"arguments": {"a": 1}}\n</tool_call>')
    assert {(0, "call_abcd1234", "add")} == {(d.index, d.id, d.name) for d in deltas if d.name}
    assert '{"a": 1}' == "".join(d.arguments for d in deltas if isinstance(d, ToolCallDelta))
    assert "tool_calls" == finished.reason


def test_logprobs_come_with_the_content_and_not_with_the_thinking():
    stream = stream_of(GenerationRequest("m", prompt="hi", think=True, logprobs=0))
    texts = ["hm", "\n</think>", "\n\nyes"]
    outputs = [SequenceOutput(1, text, logprobs=(TokenLogprob(text.encode(), -1.0),)) for text in texts]
    found = [event for output in outputs for event in stream.events(output)]
    assert [ThinkingDelta("hm"), ContentDelta("yes", (TokenLogprob(b"\n\nyes", -1.0),))] == found


def test_logprobs_are_asked_of_the_engine():
    request = GenerationRequest("m", prompt="hi", logprobs=5)
    assert 5 == conversations().prepare(1, request).sequence.logprobs


def test_a_bias_for_a_token_that_the_model_does_not_have_is_refused():
    request = GenerationRequest("m", prompt="hi", options=Options(logit_bias=((99_999_999, 1.0),)))
    with pytest.raises(BadRequestError, match="there is no token 99999999"):
        conversations().prepare(1, request)


def test_prefill_progress_is_told():
    stream = stream_of(GenerationRequest("m", prompt="hi"))
    assert [PromptProgress(8, 20)] == stream.events(SequenceOutput(1, prompt_processed=8))


def test_a_request_can_have_its_last_message_continued_and_tell_the_template_more():
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{{ mood }}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    talk = (Message("user", "hi"), Message("assistant", "Well, "))

    def prompt(**rendering):
        request = GenerationRequest("m", messages=talk, rendering=Rendering(**rendering))
        return prompt_of(conversations(template).prepare(1, request))

    assert "<user>hi</><assistant>Well, </>glad<assistant>" == prompt(variables='{"mood": "glad"}')
    assert "<user>hi</><assistant>Well, " == prompt(continues_final_message=True)
    assert "<user>hi</><assistant>Well, </>" == prompt(prompts=False)


@pytest.mark.parametrize("is_early", [True, False])
def test_a_calls_arguments_come_while_they_are_written_for_who_takes_them_so(is_early):
    question = (Message("user", "add"),)
    request = GenerationRequest("m", messages=question, tools=(TOOL,), early_arguments=is_early)
    prepared = conversations(THINKING_TEMPLATE).prepare(1, request)
    written = '<tool_call>\n{"name": "add", "arguments": {"a": 1'
    events = Stream(prepared).events(SequenceOutput(1, written))
    early = [ToolCallDelta(0, "call_abcd1234", "add"), ToolCallDelta(0, arguments='{"a": 1')]
    assert (early if is_early else []) == events
