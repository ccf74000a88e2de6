"""Ollama's dialect: literal bodies in, literal requests out; literal events in, literal bytes out."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from localllm.dialects.body import Decoded
from localllm.dialects.ollama import decode_chat, decode_generate, decode_name
from localllm.dialects.ollama_encode import OllamaEncoder, error_body
from localllm.errors import LocalllmError, ModelNotFoundError, UnsupportedError
from localllm.generation import (
    CacheMiss,
    ContentDelta,
    Failed,
    FillIn,
    Finished,
    GenerationRequest,
    Message,
    Options,
    PromptProgress,
    ResponseFormat,
    ThinkingDelta,
    Timings,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
)

GOLDEN = Path(__file__).parent.parent / "golden"
NOW_NS = 1_767_323_045_000_000_006  # 2026-01-02T03:04:05.000000006Z
FINISHED = Finished("stop", Usage(26, 8, 290), Timings(0.5, 0.25, 0.125, 4.0, 5.0))


def test_a_chat_body_with_every_field_becomes_a_request():
    body = b"""{
        "model": "guide", "stream": false, "format": {"type": "object"}, "keep_alive": "10m", "truncate": true,
        "think": "high", "options": {"temperature": 0, "num_ctx": 4096.0, "stop": ["a", "b"], "seed": null, "warp": 9},
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {"minimum": 1}}}],
        "messages": [
            {"role": "System", "content": "Be brief."},
            {"role": "user", "content": "1+1?", "images": []},
            {"role": "assistant", "content": "", "thinking": "easy", "tool_calls": [
                {"id": "call_1", "function": {"index": 0, "name": "add", "arguments": {"b": 1, "a": 1}}}]},
            {"role": "tool", "tool_name": "add", "content": "2"}
        ]}"""
    assert Decoded(
        GenerationRequest(
            model="guide",
            messages=(
                Message("system", "Be brief."),
                Message("user", "1+1?"),
                Message("assistant", "", "easy", (ToolCall("call_1", "add", '{"b": 1, "a": 1}'),)),
                Message("tool", "2", tool_name="add"),
            ),
            tools=(Tool("add", '{"type": "function", "function": {"name": "add", "parameters": {"minimum": 1}}}'),),
            response_format=ResponseFormat("json_schema", '{"type": "object"}'),
            think="high",
            options=Options(temperature=0.0, num_ctx=4096, stop=("a", "b")),
            keep_alive_seconds=600.0,
            context_policy="truncate",
        ),
        stream=False,
        unknown_options=("warp",),
        ignored=("options.warp",),
    ) == decode_chat(body)


@pytest.mark.parametrize("decode", [decode_chat, decode_generate])
def test_fields_and_options_that_change_nothing_are_told_and_null_is_no_field(decode):
    body = b'{"model": "guide", "prompt": "hi", "messages": [], "warp": 9, "wrap": null, "options": {"woof": 1}}'
    other = {decode_chat: "prompt", decode_generate: "messages"}[decode]
    assert (other, "warp", "options.woof") == decode(body).ignored


def test_a_generate_body_becomes_a_request_that_streams_by_default():
    body = b'{"model": "guide", "prompt": "hi", "system": "Be kind.", "format": "json", "think": false}'
    request = GenerationRequest(
        model="guide",
        prompt="hi",
        system="Be kind.",
        response_format=ResponseFormat("json_object"),
        think=False,
        returns_context=True,
    )
    assert Decoded(request, stream=True) == decode_generate(body)


def test_clients_that_send_nulls_and_empty_lists_mean_nothing_by_it():
    body = b"""{"model": "m", "messages": [{"role": "user", "content": "x", "images": null, "tool_calls": []}],
        "stream": null, "format": "", "keep_alive": null, "options": null, "tools": [], "think": null, "truncate": null,
        "suffix": null, "unheard_of": {"a": [1]}}"""
    request = GenerationRequest("m", messages=(Message("user", "x"),))
    assert Decoded(request, stream=True, ignored=("unheard_of",)) == decode_chat(body)
    empty = b'{"name": "m", "prompt": "x", "suffix": "", "template": "", "context": [], "images": [], "raw": false}'
    assert Decoded(GenerationRequest("m", prompt="x", returns_context=True), stream=True) == decode_generate(empty)


def test_tool_arguments_as_text_are_read_as_openai_clients_mean_them():
    body = b"""{"model": "m", "messages": [
        {"role": "assistant", "tool_calls": [{"id": "7", "function": {"name": "f", "arguments": "{\\"a\\": 1}"}},
                                             {"function": {"name": "g"}}]},
        {"role": "tool", "content": "2", "tool_call_id": "7"}]}"""
    assert (
        Message("assistant", tool_calls=(ToolCall("7", "f", '{"a": 1}'), ToolCall("", "g", "{}"))),
        Message("tool", "2", tool_name="f", tool_call_id="7"),
    ) == decode_chat(body).request.messages


@pytest.mark.parametrize(("more", "continues"), [("", True), (', "format": "json"', False), (', "tools": []', True)])
def test_a_last_message_of_the_assistant_is_the_beginning_of_the_answer(more, continues):
    said = '{"role": "user", "content": "x"}, {"role": "assistant", "content": "The answer is"}'
    decoded = decode_chat(f'{{"model": "m", "messages": [{said}]{more}}}'.encode())
    assert continues is decoded.request.rendering.continues_final_message


def test_a_call_that_was_cut_off_does_not_end_the_conversation_for_good():
    body = b"""{"model": "m", "messages": [{"role": "assistant", "tool_calls": [
        {"function": {"name": "f", "arguments": "{\\"city\\": "}}, {"function": {"name": "g", "arguments": ""}}]}]}"""
    (message,) = decode_chat(body).request.messages
    assert ('{"arguments":"{\\"city\\": "}', "{}") == tuple(call.arguments for call in message.tool_calls)


@pytest.mark.parametrize(
    ("body", "action", "keep_alive_seconds"),
    [
        (b'{"model": "m"}', "load", None),
        (b'{"model": "m", "messages": [], "prompt": "", "keep_alive": -1}', "load", math.inf),
        (b'{"model": "m", "keep_alive": 0}', "unload", 0.0),
        (b'{"model": "m", "keep_alive": "0"}', "unload", 0.0),
        (b'{"model": "m", "keep_alive": 1.5}', "load", 1.5),
    ],
)
def test_an_empty_prompt_loads_or_unloads(body, action, keep_alive_seconds):
    for decode in (decode_chat, decode_generate):
        decoded = decode(body)
        assert (action, keep_alive_seconds) == (decoded.action, decoded.request.keep_alive_seconds)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "missing request body"),
        (b"  \n", "missing request body"),
        (b"{", "the body is not valid JSON: Input data was truncated"),
        (b"[]", "the body must be an object, not an array"),
        (b'{"model": 1}', "model must be a string, not an integer"),
        (b'{"model": "\xff"}', "the body is not valid JSON: it is not UTF-8"),
        (b'{"x": ' + b"[" * 100_000, "the body is nested too deeply"),
        (b"{}", "model is required"),
        (b'{"model": "m", "stream": "yes"}', "stream must be a boolean, not a string"),
        (b'{"model": "m", "messages": {}}', "messages must be an array, not an object"),
        (
            b'{"model": "m", "messages": [{"role": "user", "content": 1}]}',
            "messages[0].content must be a string, not an integer",
        ),
        (
            b'{"model": "m", "messages": [{"role": "robot"}]}',
            'messages[0].role is "robot", but must be one of "system", "developer", "user", "assistant", "tool"',
        ),
        (
            b'{"model": "m", "messages": [{"role": "user", "images": ["aGk="]}]}',
            "messages[0].images: this version does not read images",
        ),
        (b'{"model": "m", "options": []}', "options must be an object, not an array"),
        (b'{"model": "m", "options": {"top_k": "x"}}', 'option "top_k" must be of type integer'),
        (
            b'{"model": "m", "think": "deep"}',
            'invalid think value: "deep" (must be "high", "medium", "low", "max", true, or false)',
        ),
        (
            b'{"model": "m", "think": 1}',
            'think must be a boolean or string ("high", "medium", "low", "max", true, or false)',
        ),
        (b'{"model": "m", "keep_alive": "10"}', 'time: missing unit in duration "10"'),
        (b'{"model": "m", "keep_alive": true}', "Unsupported type: 'True'"),
        (
            b'{"model": "m", "keep_alive": 1' + b"0" * 400 + b"}",
            "time: invalid duration: the number of seconds is too large",
        ),
        (
            b'{"model": "m", "format": "xml"}',
            'invalid format: "xml"; expected "json" or a valid JSON Schema object',
        ),
        (b'{"model": "m", "tools": [{"type": "function"}]}', "tools[0].function.name is missing"),
        (b'{"model": "m", "tools": [3]}', "tools[0] must be an object"),
        (b'{"model": "m", "tools": [' + b"[" * 70 + b"]" * 70 + b"]}", "tools[0] is nested deeper than 64 levels"),
        (
            b'{"model": "m", "tools": [{"function": {"name": 1}}]}',
            "tools[0].function.name must be a string, not an integer",
        ),
        (
            b'{"model": "m", "messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f",'
            b' "arguments": [1]}}]}]}',
            "messages[0].tool_calls[0].function.arguments must be an object",
        ),
        (b'{"model": "m", "top_logprobs": 21}', "top_logprobs must be between 0 and 20"),
        (b'{"model": "m", "top_logprobs": 2}', "top_logprobs needs logprobs to be true"),
    ],
)
def test_a_bad_chat_body_is_told_what_is_wrong_with_it(body, message):
    with pytest.raises(LocalllmError) as caught:
        decode_chat(body)
    assert (400, message) == (caught.value.status, caught.value.message)


def test_a_suffix_is_what_stands_behind_the_gap():
    request = decode_generate(b'{"model": "m", "prompt": "a(", "suffix": ")"}').request
    assert ("a(", FillIn(")")) == (request.prompt, request.fill_in)
    nothing_before = decode_generate(b'{"model": "m", "suffix": ")"}')
    assert ("generate", "") == (nothing_before.action, nothing_before.request.prompt)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('"raw": true, "system": "x"', "raw mode does not support template, system, or context"),
        ('"raw": true, "context": [1]', "raw mode does not support template, system, or context"),
        ('"template": "{% for m in messages %}"', "template must be in Go's template language, as in Modelfiles"),
        ('"template": "{{ .Prompt }}", "suffix": "x"', "a suffix is written without a template"),
        ('"context": [1, -2]', "context has -2, which is no token"),
        ('"context": [1, 2], "suffix": "x"', "a suffix cannot go on from a context"),
        ('"images": ["aGk="]', "images: this version does not read images"),
        ('"prompt": ["x"]', "prompt must be a string, not an array"),
    ],
)
def test_what_generate_cannot_do_is_refused_and_not_ignored(fields, message):
    with pytest.raises(LocalllmError) as caught:
        decode_generate(
            f'{{"model": "m", "prompt": "x", {fields}}}'.replace('"prompt": "x", "prompt"', '"prompt"').encode()
        )
    assert (400, message) == (caught.value.status, caught.value.message)


def test_a_context_is_gone_on_from_and_told_unless_there_is_no_exchange():
    going_on = decode_generate(b'{"model": "m", "prompt": "x", "context": [5, 6]}').request
    assert ((5, 6), True) == (going_on.context_tokens, going_on.returns_context)
    raw = decode_generate(b'{"model": "m", "prompt": "x", "raw": true}').request
    gap = decode_generate(b'{"model": "m", "prompt": "x", "suffix": "y"}').request
    assert (False, False) == (raw.returns_context, gap.returns_context)


def test_a_template_in_gos_language_is_instead_of_the_models():
    assert (
        "{{ .Prompt }}"
        == decode_generate(b'{"model": "m", "prompt": "x", "template": "{{ .Prompt }}"}').request.template
    )
    assert decode_generate(b'{"model": "m", "prompt": "x", "template": ""}').request.template is None


def test_ollamas_own_figures_are_there_even_when_they_are_0_and_ours_only_when_not():
    said = json.loads(
        OllamaEncoder("chat", "m").chunk(Finished("stop", Usage(5, 0, 0), Timings(0.0, 0.0, 0.0, 0.0)), 0)
    )
    figures = {name: said[name] for name in said if name.endswith(("_duration", "_count"))}
    durations = dict.fromkeys(("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"), 0)
    assert {**durations, "prompt_eval_count": 5, "eval_count": 0} == figures
    assert {"done_reason"} == set(json.loads(OllamaEncoder("chat", "m").chunk(Finished("load"), 0))) - {
        "model", "created_at", "message", "done"
    }  # fmt: skip


def test_the_context_stands_in_the_last_line_if_there_is_one():
    encoder = OllamaEncoder("generate", "m")
    assert [5, 6] == json.loads(encoder.chunk(Finished("stop", context=(5, 6)), 0))["context"]
    assert "context" not in json.loads(encoder.chunk(Finished("stop"), 0))


def test_generate_without_a_model_answers_as_for_an_unknown_one():
    with pytest.raises(ModelNotFoundError) as caught:
        decode_generate(b'{"prompt": "x"}')
    assert "model '' not found" == str(caught.value)


def test_half_an_emoji_becomes_the_replacement_character():
    body = rb'{"model": "m", "prompt": "a\ud83d b\\ud83d \ude00 \ud83d\ude00 \n"}'
    assert "a\ufffd b\\ud83d \ufffd \U0001f600 \n" == decode_generate(body).request.prompt


def test_tools_that_are_no_functions_are_skipped_and_that_is_told():
    body = b'{"model": "m", "tools": [{"type": "web_search"}, {"type": "function", "function": {"name": "f"}}]}'
    decoded = decode_chat(body)
    assert (["f"], ("tools[0]",)) == ([tool.name for tool in decoded.request.tools], decoded.ignored)


def test_a_body_that_names_a_model_may_call_it_model_or_name():
    assert ("a", False) == decode_name(b'{"model": "a"}')
    assert ("b", True) == decode_name(b'{"name": "b", "verbose": true}')
    with pytest.raises(LocalllmError, match="model is required"):
        decode_name(b"{}")


def streamed(kind, *events):
    encoder = OllamaEncoder(kind, "guide")
    return b"".join(encoder.chunk(event, NOW_NS) for event in events)


CHAT_EVENTS = (
    PromptProgress(26, 26),
    ThinkingDelta("Hm"),
    ContentDelta('The "sky"\n'),
    ToolCallDelta(0, "call_1", "add"),
    ToolCallDelta(0, arguments='{"b": 1,'),
    ToolCallDelta(0, arguments=' "a": 2}'),
    ToolCallDelta(1, "call_2", "now", "{}"),
    Finished("tool_calls", FINISHED.usage, FINISHED.timings),
)


@pytest.mark.parametrize(
    ("name", "kind", "events"),
    [
        ("ollama_chat", "chat", CHAT_EVENTS),
        ("ollama_generate", "generate", (ThinkingDelta("Hm"), ContentDelta("blue é"), FINISHED)),
    ],
)
def test_streams_and_whole_answers_are_the_golden_bytes(name, kind, events):
    assert (GOLDEN / f"{name}.ndjson").read_bytes() == streamed(kind, *events)
    assert (GOLDEN / f"{name}.json").read_bytes() == OllamaEncoder(kind, "guide").whole(events, NOW_NS)


def test_a_stream_that_fails_ends_with_an_error_line():
    failed = Failed("runner_crashed", 500, "the model's process died", "the next request starts a new one")
    assert (
        b'{"model":"guide","created_at":"2026-01-02T03:04:05.000000006Z","response":"a","done":false}\n'
        b'{"error":"the model\'s process died","code":"runner_crashed","hint":"the next request starts a new one"}\n'
    ) == streamed("generate", ContentDelta("a"), failed)
    assert b'{"error":"no","code":"bad_request"}' == error_body(Failed("bad_request", 400, "no"))


@pytest.mark.parametrize("reason", ["load", "unload", "length"])
def test_the_done_reason_is_the_events(reason):
    line = json.loads(streamed("chat", Finished(reason)))
    assert {
        "model": "guide",
        "created_at": "2026-01-02T03:04:05.000000006Z",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": reason,
    } == line


def test_a_tool_call_that_was_cut_off_is_shown_as_text():
    events = (ToolCallDelta(0, "call_1", "add", '{"a": '), Finished("length"))
    first, last = (json.loads(line) for line in streamed("chat", *events).splitlines())
    assert {"role": "assistant", "content": 'add{"a": '} == first["message"]
    assert "length" == last["done_reason"]
    assert 'add{"a": ' == json.loads(OllamaEncoder("chat", "m").whole(events, NOW_NS))["message"]["content"]


@pytest.mark.parametrize(
    ("fields", "logprobs"),
    [('"logprobs": true', 0), ('"logprobs": true, "top_logprobs": 20', 20), ('"logprobs": false', None)],
)
def test_logprobs_are_asked_for_with_a_number_of_others(fields, logprobs):
    for decode in (decode_chat, decode_generate):
        assert logprobs == decode(f'{{"model": "m", {fields}}}'.encode()).request.logprobs


EURO = TokenLogprob(b"\xe2\x82\xac", -0.5, (TokenLogprob(b"\xe2\x82\xac", -0.5), TokenLogprob(b"\xe2", -2.0)))


def test_logprobs_come_beside_the_text_with_the_bytes_of_each_token():
    expected = [
        {
            "token": "€",
            "logprob": -0.5,
            "bytes": [226, 130, 172],
            "top_logprobs": [
                {"token": "€", "logprob": -0.5, "bytes": [226, 130, 172]},
                {"token": "\ufffd", "logprob": -2.0, "bytes": [226]},
            ],
        }
    ]
    for kind in ("chat", "generate"):
        first, last = map(json.loads, streamed(kind, ContentDelta("€", (EURO,)), FINISHED).splitlines())
        assert expected == first["logprobs"]
        assert "logprobs" not in last
        whole = json.loads(OllamaEncoder(kind, "m").whole([ContentDelta("€", (EURO,)), FINISHED], NOW_NS))
        assert expected == whole["logprobs"]


def test_logprobs_without_others_have_no_top():
    (line,) = map(json.loads, streamed("chat", ContentDelta("a", (TokenLogprob(b"a", -0.25),))).splitlines())
    assert [{"token": "a", "logprob": -0.25, "bytes": [97]}] == line["logprobs"]


def test_each_line_has_its_own_time():
    encoder = OllamaEncoder("chat", "m")
    times = [NOW_NS, NOW_NS + 1, NOW_NS + 10**9, NOW_NS]
    assert [
        "2026-01-02T03:04:05.000000006Z",
        "2026-01-02T03:04:05.000000007Z",
        "2026-01-02T03:04:06.000000006Z",
        "2026-01-02T03:04:05.000000006Z",
    ] == [json.loads(encoder.chunk(ContentDelta("x"), now_ns))["created_at"] for now_ns in times]


def test_an_unsupported_field_is_an_error_of_its_own_kind():
    with pytest.raises(UnsupportedError):
        decode_generate(b'{"model": "m", "prompt": "x", "template": "y"}')


def test_shift_lets_an_answer_go_on_at_the_end_of_its_context() -> None:
    assert decode_chat(b'{"model": "m", "shift": true}').request.shifts_context
    assert not decode_chat(b'{"model": "m"}').request.shifts_context


def test_the_last_object_says_where_the_prompt_parted_from_an_earlier_one_and_what_was_dropped() -> None:
    miss = CacheMiss(3, " the", " cat", " dog", 7)
    finished = Finished("stop", Usage(10, 3, 2), dropped_tokens=5, cache_miss=miss)
    last = json.loads(OllamaEncoder("chat", "m").chunk(finished, 0))
    shown = {name: last[name] for name in ("prompt_cached_count", "prompt_cache_miss", "dropped_tokens")}
    expected_miss = {
        "position": 3,
        "shared_text": " the",
        "cached_text": " cat",
        "prompt_text": " dog",
        "request_id": 7,
    }
    assert {"prompt_cached_count": 3, "prompt_cache_miss": expected_miss, "dropped_tokens": 5} == shown
