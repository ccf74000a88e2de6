"""OpenAI's dialect: literal bodies in, literal requests out; literal events in, literal bytes out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from localllm.dialects.body import Decoded
from localllm.dialects.openai import decode_chat
from localllm.dialects.openai_encode import OpenAIEncoder, error_body
from localllm.errors import LocalllmError
from localllm.generation import (
    ContentDelta,
    Failed,
    Finished,
    GenerationRequest,
    Message,
    OfChoice,
    Options,
    PromptProgress,
    Rendering,
    ResponseFormat,
    ThinkingDelta,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
    Usage,
)

GOLDEN = Path(__file__).parent.parent / "golden"
NOW_NS = 1_767_323_045_000_000_006
USER = '"messages": [{"role": "user", "content": "x"}]'


def decode(fields: str) -> Decoded:
    return decode_chat(f'{{"model": "m", {USER}, {fields}}}'.encode())


def test_a_body_with_every_field_becomes_a_request():
    body = b"""{
        "model": "guide", "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 5,
        "max_completion_tokens": 7, "temperature": 0.5, "top_p": null, "seed": 3, "stop": "END", "presence_penalty": 1,
        "frequency_penalty": 2, "logit_bias": {"5": -100}, "response_format": {"type": "json_object"},
        "tool_choice": "auto", "tools": [{"type": "function", "function": {"name": "add"}}], "n": 1, "logprobs": false,
        "reasoning_effort": "none", "options": {"top_k": 1, "temperature": 0.9, "warp": 1}, "keep_alive": 60,
        "num_ctx": 2048, "min_p": 0.1, "repeat_penalty": 1.1, "user": "ann", "store": true, "metadata": {"a": "b"},
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]},
            {"role": "user", "content": "1+1?", "name": "Ann"},
            {"role": "assistant", "content": null, "reasoning_content": "easy", "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{\\"a\\": 1}"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "2"}
        ]}"""
    assert Decoded(
        GenerationRequest(
            model="guide",
            messages=(
                Message("system", "Be\nbrief."),
                Message("user", "1+1?"),
                Message("assistant", "", "easy", (ToolCall("call_1", "add", '{"a": 1}'),)),
                Message("tool", "2", tool_name="add", tool_call_id="call_1"),
            ),
            tools=(Tool("add", '{"type": "function", "function": {"name": "add"}}'),),
            response_format=ResponseFormat("json_object"),
            think=False,
            options=Options(
                num_predict=7,
                temperature=0.5,
                seed=3,
                stop=("END",),
                presence_penalty=1.0,
                frequency_penalty=2.0,
                logit_bias=((5, -100.0),),
                top_k=1,
                min_p=0.1,
                repeat_penalty=1.1,
                num_ctx=2048,
            ),
            keep_alive_seconds=60.0,
            early_arguments=True,
            client="ann",
        ),
        stream=True,
        include_usage=True,
        unknown_options=("warp",),
        ignored=("store", "metadata"),
    ) == decode_chat(body)


def test_what_the_client_leaves_out_stays_out_so_that_the_modelfile_counts():
    request = GenerationRequest("m", messages=(Message("user", "x"),))
    assert Decoded(request, stream=False) == decode('"temperature": null')


def test_llama_cpps_sampling_options_are_fields_too():
    fields = """"dry_multiplier": 0.8, "dry_base": 2, "dry_allowed_length": 3, "dry_penalty_last_n": -1,
        "dry_sequence_breakers": ["\\n", "", "*"], "xtc_probability": 0.5, "xtc_threshold": 0.2, "top_n_sigma": 1,
        "mirostat": 2.0, "mirostat_tau": 4, "mirostat_eta": 0.2"""
    assert (
        Options(
            dry_multiplier=0.8,
            dry_base=2.0,
            dry_allowed_length=3,
            dry_penalty_last_n=-1,
            dry_sequence_breakers=("\n", "*"),
            xtc_probability=0.5,
            xtc_threshold=0.2,
            top_n_sigma=1.0,
            mirostat=2,
            mirostat_tau=4.0,
            mirostat_eta=0.2,
        )
        == decode(fields).request.options
    )


TOOLS = '"tools": [{"type": "function", "function": {"name": "f", "strict": true}}, {"function": {"name": "g"}}]'


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("", ToolChoice()),
        ('"tool_choice": "auto", "parallel_tool_calls": false', ToolChoice(parallel=False)),
        ('"tool_choice": "required"', ToolChoice("required")),
        ('"tool_choice": {"type": "function", "function": {"name": "g"}}', ToolChoice("required", ("g",))),
        (
            '"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", '
            '"function": {"name": "g"}}]}}',
            ToolChoice("auto", ("g",)),
        ),
    ],
)
def test_tool_choice_says_whether_a_call_may_or_must_be_made(fields, expected):
    request = decode(f"{TOOLS}, {fields}".removesuffix(", ")).request
    assert expected == request.tool_choice
    assert [("f", True), ("g", False)] == [(tool.name, tool.strict) for tool in request.tools]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ('"response_format": {"type": "json_object"}', ResponseFormat("json_object")),
        (
            '"response_format": {"type": "json_object", "schema": {"type": "array"}}',
            ResponseFormat("json_schema", '{"type": "array"}'),
        ),
        ('"response_format": {"type": "regex", "pattern": "a+"}', ResponseFormat("regex", "a+")),
        ('"response_format": {"type": "regex", "value": "a+"}', ResponseFormat("regex", "a+")),
        ('"response_format": {"type": "grammar", "grammar": "start: A"}', ResponseFormat("grammar", "start: A")),
        ('"grammar": "root ::= x"', ResponseFormat("grammar", "root ::= x")),
        ('"json_schema": {"type": "null"}', ResponseFormat("json_schema", '{"type": "null"}')),
        ('"guided_json": "{\\"type\\": \\"null\\"}"', ResponseFormat("json_schema", '{"type": "null"}')),
        ('"guided_regex": "b"', ResponseFormat("regex", "b")),
        ('"regex": "(pull|run)"', ResponseFormat("regex", "(pull|run)")),
        ('"ebnf": "root ::= \\"a\\""', ResponseFormat("grammar", 'root ::= "a"')),
        ('"guided_choice": ["é\\"", "no"]', ResponseFormat("grammar", 'start: "é\\"" | "no"\n')),
        ('"structured_outputs": {"regex": "b"}', ResponseFormat("regex", "b")),
        ('"structured_outputs": {"json_object": true}', ResponseFormat("json_object")),
        ('"structured_outputs": {"grammar": "start: B"}', ResponseFormat("grammar", "start: B")),
    ],
)
def test_a_format_is_asked_for_in_the_words_of_many_servers(fields, expected):
    assert expected == decode(fields).request.response_format


@pytest.mark.parametrize(
    "fields",
    [
        '"thinking_token_budget": 7',
        '"thinking_budget_tokens": 7',
        '"thinking_budget": 7.0',
        '"reasoning_budget": 7',
        '"reasoning": {"max_tokens": 7}',
        '"thinking": {"type": "enabled", "budget_tokens": 7}',
        '"options": {"thinking_budget": 7}',
    ],
)
def test_thinking_gets_a_budget_of_tokens_in_the_words_of_many_servers(fields):
    assert 7 == decode(fields).request.options.thinking_budget


def test_thinking_is_switched_as_anthropic_does_it():
    assert [True, False] == [decode(f'"thinking": {{"type": "{one}abled"}}').request.think for one in ("en", "dis")]


def test_tools_that_are_no_functions_are_skipped_and_that_is_told():
    decoded = decode(
        '"tools": [{"type": "web_search"}, {"function": {"name": "g"}}, {"type": "custom"}], "store": true'
    )
    assert (["g"], ("store", "tools[0]", "tools[2]")) == (
        [tool.name for tool in decoded.request.tools],
        decoded.ignored,
    )


def test_tool_choice_none_drops_the_tools():
    tools = '"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"'
    assert () == decode(tools).request.tools


def test_a_json_schema_stays_the_text_it_is():
    fields = '"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type" : "object"}}}'
    assert ResponseFormat("json_schema", '{"type" : "object"}') == decode(fields).request.response_format
    assert None is decode('"response_format": {"type": "text"}').request.response_format


@pytest.mark.parametrize(
    ("effort", "think"),
    [("none", False), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high"), ("xhigh", "max")],
)
def test_reasoning_effort_is_how_hard_to_think(effort, think):
    assert think == decode(f'"reasoning_effort": "{effort}"').request.think
    assert think == decode(f'"reasoning": {{"effort": "{effort}"}}').request.think


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ('"n": 0', "n", "n is 0, but 1 to 128 answers are possible"),
        ('"n": 129', "n", "n is 129, but 1 to 128 answers are possible"),
        ('"audio": {"voice": "ash"}', None, "audio is not supported: this version answers with text"),
        ('"logprobs": true, "top_logprobs": 21', "top_logprobs", "top_logprobs must be between 0 and 20"),
        ('"top_logprobs": 1', "top_logprobs", "top_logprobs needs logprobs to be true"),
        ('"tool_choice": "required"', "tool_choice", "tool_choice demands a call, but there are no tools"),
        (
            f'{TOOLS}, "tool_choice": {{"type": "function", "function": {{"name": "h"}}}}',
            "tool_choice",
            "tool_choice names h, but tools does not have it",
        ),
        (
            f'{TOOLS}, "tool_choice": "perhaps"',
            "tool_choice",
            'tool_choice must be "none", "auto", "required", or an object that names a function or allowed_tools',
        ),
        (
            '"response_format": {"type": "json_object"}, "grammar": "root ::= \\"a\\""',
            "grammar",
            "a format and grammar exclude each other: send one of them",
        ),
        ('"guided_choice": []', "guided_choice", "guided_choice is empty: nothing could be answered"),
        ('"grammar_lazy": true', None, "grammar_lazy is not supported"),
        ('"structured_outputs": {"structural_tag": {}}', None, "structural_tag is not supported"),
        (
            '"thinking_budget": 1.5',
            "thinking_budget",
            "thinking_budget must be a number of tokens, or -1 for no bound",
        ),
        ('"temperature": "hot"', None, 'option "temperature" must be of type float32'),
        ('"seed": 1' + 400 * "0", None, 'option "seed" must be a finite number'),
        (
            '"logit_bias": {"1": 1' + 400 * "0" + "}",
            None,
            'option "logit_bias" must be an object of token id to number',
        ),
        ('"mirostat": 3', None, 'option "mirostat" must be between 0 and 2, not 3'),
        (
            '"dry_sequence_breakers": ["' + 41 * "x" + '"]',
            None,
            'option "dry_sequence_breakers" holds at most 16 texts of at most 40 bytes',
        ),
        ('"max_tokens": [1]', None, 'option "max_tokens" must be of type integer'),
        (
            '"max_completion_tokens": -3',
            None,
            'option "max_completion_tokens" must be between -2 and 2147483647, not -3',
        ),
        ('"options": {"num_predict": []}', None, 'option "num_predict" must be of type integer'),
        (
            '"thinking_budget_tokens": 2147483648',
            None,
            'option "thinking_budget_tokens" must be between -1 and 2147483647, not 2147483648',
        ),
        ('"stream_options": 1', "stream_options", "stream_options must be an object, not an integer"),
        (
            '"reasoning_effort": "deep"',
            "reasoning_effort",
            'invalid reasoning value: "deep" (must be "minimal", "low", "medium", "high", "xhigh", "ultra", "max", or'
            ' "none")',
        ),
        (
            '"response_format": {"type": "xml"}',
            "response_format.type",
            'response_format.type is "xml", but must be "text", "json_object", "json_schema", "regex" or "grammar"',
        ),
        (
            '"response_format": {"type": "json_schema"}',
            "response_format.json_schema.schema",
            "response_format.json_schema.schema must be an object",
        ),
        ('"functions": [{}]', None, "functions is not supported"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(fields, field, message):
    with pytest.raises(LocalllmError) as caught:
        decode(fields)
    assert (400, message) == (caught.value.status, caught.value.message)
    assert field == getattr(caught.value, "field", None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"messages": []}', "model is required"),
        (b'{"model": "m", "messages": []}', "[] is too short - 'messages'"),
        (b'{"model": "m"}', "[] is too short - 'messages'"),
        (
            b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}',
            'messages[0].content[0] has the type "image_url", but this version reads only text',
        ),
        (
            b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "text"}]}]}',
            "messages[0].content[0].text is missing",
        ),
        (
            b'{"model": "m", "messages": [{"role": "user", "content": 5}]}',
            "messages[0].content must be a string or an array, not an integer",
        ),
    ],
)
def test_a_bad_body_is_told_what_is_wrong_with_it(body, message):
    with pytest.raises(LocalllmError) as caught:
        decode_chat(body)
    assert (400, message) == (caught.value.status, caught.value.message)


@pytest.mark.parametrize(
    ("sent", "arguments"),
    [
        ('{"city": "Paris"}', '{"city": "Paris"}'),
        ('{"city": ', '{"arguments":"{\\"city\\": "}'),
        ("[1]", '{"arguments":"[1]"}'),
        ("", "{}"),
        ("null", "{}"),
    ],
)
def test_a_call_that_was_cut_off_does_not_end_the_conversation_for_good(sent, arguments):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": sent}}
    said = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": "no JSON"}]
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}, *said]}
    messages = decode_chat(json.dumps(body).encode()).request.messages or ()
    assert (ToolCall("c", "f", arguments),) == messages[1].tool_calls
    assert Message("tool", "no JSON", tool_name="f", tool_call_id="c") == messages[2]


def test_several_answers_are_several_requests_that_differ_in_their_seed():
    decoded = decode('"n": 3, "seed": 4294967295')
    assert [4294967295, 0, 1] == [request.options.seed for request in decoded.choices]
    assert decoded.request == decoded.choices[0]
    assert (None, None) == tuple(request.options.seed for request in decode('"n": 2').choices)
    assert () == decode('"n": 1').choices
    assert (2, 1) == (decode('"n": 2').candidates_per_prompt, decode('"n": 1').candidates_per_prompt)


def test_what_changes_nothing_is_named():
    fields = '"prediction": {"type": "content"}, "modalities": ["text"], "verbosity": null, "service_tier": "flex"'
    decoded = decode(fields)
    assert (("prediction", "modalities"), "flex") == (decoded.ignored, decoded.service_tier)


def test_a_refusal_that_a_client_sends_back_is_its_text():
    body = b'{"model": "m", "messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}]}'
    assert "No." == decode_chat(body).request.messages[0].content


def encoder(*, include_usage: bool = True) -> OpenAIEncoder:
    return OpenAIEncoder("chatcmpl-1", "guide", NOW_NS, include_usage=include_usage)


def streamed(*events, include_usage=True):
    one = encoder(include_usage=include_usage)
    return b"".join(one.chunk(event, NOW_NS) for event in events)


def deltas(stream: bytes):
    events = [line.removeprefix(b"data: ") for line in stream.split(b"\n\n") if line]
    assert b"[DONE]" == events[-1]
    return [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]


EVENTS = (
    PromptProgress(26, 26),
    ThinkingDelta("Hm"),
    ContentDelta('The "sky"'),
    ToolCallDelta(0, "call_1", "add"),
    ToolCallDelta(0, arguments='{"a": 1}'),
    Finished("stop", Usage(26, 8, 290)),
)


def test_streams_and_whole_answers_are_the_golden_bytes():
    assert (GOLDEN / "openai_chat.sse").read_bytes() == streamed(*EVENTS)
    assert (GOLDEN / "openai_chat.json").read_bytes() == encoder().whole(EVENTS, NOW_NS)


def test_the_role_comes_in_the_first_delta_only_whatever_that_is():
    finished = Finished("stop")
    role = {"role": "assistant"}
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    table = {
        (ContentDelta("a"), ContentDelta("b")): [{**role, "content": "a"}, {"content": "b"}, {}],
        (ToolCallDelta(0, "c", "f", "{}"),): [{**role, "content": None, "tool_calls": [call]}, {}],
        (): [{**role, "content": ""}, {}],
    }
    for events, expected in table.items():
        assert expected == deltas(streamed(*events, finished, include_usage=False))


def test_logprobs_are_asked_for_with_a_number_of_others():
    assert 3 == decode('"logprobs": true, "top_logprobs": 3').request.logprobs
    assert 0 == decode('"logprobs": true').request.logprobs
    assert None is decode('"logprobs": false, "top_logprobs": null').request.logprobs


def test_logprobs_stand_in_the_choice_with_the_bytes_of_each_token():
    token = TokenLogprob(b"a\xc3", -0.5, (TokenLogprob(b"b", -0.25),))
    top = [{"token": "b", "logprob": -0.25, "bytes": [98]}]
    content = [{"token": "a\ufffd", "logprob": -0.5, "bytes": [97, 195], "top_logprobs": top}]
    first, second, _ = streamed(ContentDelta("a", (token,)), ContentDelta("b"), Finished("stop")).split(b"\n\n", 2)
    choice = json.loads(first.removeprefix(b"data: "))["choices"][0]
    assert {"content": content, "refusal": None} == choice["logprobs"]
    assert "logprobs" not in json.loads(second.removeprefix(b"data: "))["choices"][0]
    whole = json.loads(encoder().whole([ContentDelta("a", (token,)), Finished("stop")], NOW_NS))
    assert {"content": content, "refusal": None} == whole["choices"][0]["logprobs"]


@pytest.mark.parametrize("include_usage", [True, False])
def test_usage_comes_in_a_last_chunk_without_choices_if_asked_for(include_usage):
    stream = streamed(ContentDelta("a"), Finished("length", Usage(3, 2, 1)), include_usage=include_usage)
    chunks = [json.loads(line.removeprefix(b"data: ")) for line in stream.split(b"\n\n")[:-2]]
    with_usage = [chunk for chunk in chunks if "usage" in chunk]
    assert include_usage == bool(with_usage)
    for chunk in with_usage:
        assert [] == chunk["choices"]
        assert {
            "prompt_tokens": 3,
            "completion_tokens": 1,
            "total_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 2},
        } == chunk["usage"]
    assert "length" == chunks[1]["choices"][0]["finish_reason"]


def test_several_answers_are_choices_of_one_stream_each_with_its_role_and_end():
    stream = streamed(
        OfChoice(1, ContentDelta("b")),
        OfChoice(0, ContentDelta("a")),
        OfChoice(1, Finished("length")),
        OfChoice(0, Finished("stop")),
        Finished("stop", Usage(3, 0, 2)),
    )
    *chunks, usage = [json.loads(line.removeprefix(b"data: ")) for line in stream.split(b"\n\n")[:-2]]
    assert [
        (1, {"role": "assistant", "content": "b"}, None),
        (0, {"role": "assistant", "content": "a"}, None),
        (1, {}, "length"),
        (0, {}, "stop"),
    ] == [(c["index"], c["delta"], c["finish_reason"]) for chunk in chunks for c in chunk["choices"]]
    assert ([], 5) == (usage["choices"], usage["usage"]["total_tokens"])


def test_several_answers_are_choices_of_one_object_in_their_order():
    events = [
        OfChoice(1, ContentDelta("b")),
        OfChoice(1, Finished("stop")),
        OfChoice(0, ContentDelta("a")),
        OfChoice(0, Finished("length")),
        Finished("stop", Usage(3, 0, 2)),
    ]
    whole = json.loads(encoder().whole(events, NOW_NS))
    assert [(0, "a", "length"), (1, "b", "stop")] == [
        (choice["index"], choice["message"]["content"], choice["finish_reason"]) for choice in whole["choices"]
    ]
    assert 5 == whole["usage"]["total_tokens"]


def test_whoever_asks_for_a_tier_is_told_which_it_was():
    one = OpenAIEncoder("chatcmpl-1", "guide", NOW_NS, include_usage=False, service_tier="flex")
    assert b'"service_tier":"default"' in one.chunk(ContentDelta("a"), NOW_NS)
    assert "default" == json.loads(one.whole([Finished("stop")], NOW_NS))["service_tier"]
    assert "service_tier" not in json.loads(encoder().whole([Finished("stop")], NOW_NS))


def test_a_stream_that_fails_ends_with_an_error_and_done():
    stream = streamed(ContentDelta("a"), Failed("runner_crashed", 500, "it died", "try again"))
    assert [
        b'data: {"error":{"message":"it died","type":"api_error","param":null,"code":"runner_crashed",'
        b'"hint":"try again"}}',
        b"data: [DONE]",
        b"",
    ] == stream.split(b"\n\n")[1:]


@pytest.mark.parametrize(
    ("code", "status", "expected_type", "expected_code"),
    [
        ("prompt_too_long", 400, "invalid_request_error", "context_length_exceeded"),
        ("input_too_long", 400, "invalid_request_error", "context_length_exceeded"),
        ("unauthorized", 401, "authentication_error", "invalid_api_key"),
        ("model_not_found", 404, "not_found_error", "model_not_found"),
        ("queue_full", 503, "api_error", "queue_full"),
    ],
)
def test_errors_have_the_types_and_codes_that_openais_clients_know(code, status, expected_type, expected_code):
    body = json.loads(error_body(Failed(code, status, "m"), "n"))
    assert {"error": {"message": "m", "type": expected_type, "param": "n", "code": expected_code}} == body


@pytest.mark.parametrize(
    ("fields", "expected", "think"),
    [
        ('"chat_template_kwargs": {"a": [1], "b": "ü"}', Rendering('{"a": [1], "b": "ü"}'), None),
        ('"chat_template_kwargs": {"enable_thinking": false}', Rendering('{"enable_thinking": false}'), False),
        ('"chat_template_kwargs": {"enable_thinking": true}', Rendering('{"enable_thinking": true}'), None),
        ('"chat_template_kwargs": {}', Rendering(), None),
        ('"chat_template_kwargs": null', Rendering(), None),
        ('"continue_final_message": true', Rendering(continues_final_message=True), None),
        ('"continue_final_message": true, "add_generation_prompt": false', Rendering(None, True, False), None),
        ('"add_generation_prompt": false', Rendering(prompts=False), None),
    ],
)
def test_a_client_can_say_how_the_template_writes_the_conversation(fields, expected, think):
    request = decode(fields).request
    assert (expected, think) == (request.rendering, request.think)


@pytest.mark.parametrize(
    ("fields", "think"), [('{"enabled": false}', False), ('{"enabled": true}', True),
                          ('{"enabled": true, "effort": "high"}', "high"), ('{"enabled": null}', None)]
)  # fmt: skip
def test_thinking_is_switched_as_openrouter_has_it(fields, think):
    assert think == decode(f'"reasoning": {fields}').request.think


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ('"top_k": -1', Options(top_k=0)),
        ('"repetition_penalty": 1.1', Options(repeat_penalty=1.1)),
    ],
)
def test_sampling_in_vllms_words_is_understood(fields, options):
    decoded = decode(fields)
    assert (options, ()) == (decoded.request.options, decoded.ignored)


def test_a_custom_tools_call_in_a_conversation_is_read():
    call = {"id": "c", "type": "custom", "custom": {"name": "run", "input": "ls -l"}}
    body = {"model": "m", "messages": [{"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": "x"}]}
    messages = decode_chat(json.dumps(body).encode()).request.messages or ()
    assert (ToolCall("c", "run", '{"input":"ls -l"}'),) == messages[0].tool_calls


BEGUN = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "The answer is"}]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("fields", "continues"),
    [
        ({}, True),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, True),
        ({"continue_final_message": False}, False),
        ({"add_generation_prompt": True}, False),
        ({"add_generation_prompt": False}, False),
        ({"response_format": {"type": "json_object"}}, False),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}, False),
        ({"messages": [*BEGUN, {"role": "user", "content": "Well?"}]}, False),
        ({"messages": [BEGUN[0], {"role": "assistant", "content": " "}]}, False),
        ({"messages": [BEGUN[0], {**BEGUN[1], "name": "researcher"}]}, False),
        ({"messages": [BEGUN[0], {**BEGUN[1], "tool_calls": [CALL]}]}, False),
    ],
)
def test_a_last_message_of_the_assistant_is_the_beginning_of_the_answer_unless_one_is_asked_for_anew(fields, continues):
    decoded = decode_chat(json.dumps({"model": "m", "messages": BEGUN, **fields}).encode())
    assert continues is decoded.request.rendering.continues_final_message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('"chat_template_kwargs": [1]', "chat_template_kwargs must be an object"),
        (
            '"chat_template_kwargs": {"messages": []}',
            'chat_template_kwargs.messages: send "messages" beside it, not in it',
        ),
        (
            '"continue_final_message": true, "add_generation_prompt": true',
            "continue_final_message and add_generation_prompt exclude each other",
        ),
    ],
)
def test_what_the_template_cannot_be_told_is_refused(fields, message):
    with pytest.raises(LocalllmError, match=re.escape(message)):
        decode(fields)


def test_a_picture_in_a_tools_result_is_left_out_and_that_is_told_to_the_model_and_the_client() -> None:
    result = '{"role": "tool", "tool_call_id": "c", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}'
    decoded = decode_chat(f'{{"model": "m", "messages": [{{"role": "user", "content": "x"}}, {result}]}}'.encode())
    assert "[image_url left out: this model reads only text]" == (decoded.request.messages or ())[-1].content
    assert ("messages[1].content[0]",) == decoded.ignored
