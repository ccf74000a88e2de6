"""Anthropic's dialect: literal bodies in, literal requests out; literal events in, literal events out."""

from __future__ import annotations

import json

import pytest

from localllm.dialects.anthropic import decode_count, decode_messages
from localllm.dialects.anthropic_encode import SIGNATURE, AnthropicEncoder, error_body
from localllm.dialects.body import Decoded
from localllm.errors import LocalllmError
from localllm.generation import (
    ContentDelta,
    Failed,
    Finished,
    GenerationRequest,
    Message,
    Options,
    PromptProgress,
    ResponseFormat,
    ThinkingDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
    Usage,
)


def decode(fields: str, messages: str = '[{"role": "user", "content": "x"}]') -> Decoded:
    return decode_messages(f'{{"model": "m", "max_tokens": 9, "messages": {messages}, {fields}}}'.encode())


def turns(messages: str) -> tuple[Message, ...] | None:
    return decode('"stream": false', messages).request.messages


def test_a_body_with_every_field_becomes_a_request():
    body = b"""{
        "model": "guide", "max_tokens": 100, "stream": true, "temperature": 0.5, "top_p": 0.9, "top_k": 5,
        "stop_sequences": ["END"], "metadata": {"user_id": "ann"},
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "auto"}, "service_tier": "auto", "options": {"min_p": 0.1, "warp": 1}, "keep_alive": 60,
        "tools": [{"name": "add", "description": "Adds", "input_schema": {"type": "object"}},
                  {"type": "web_search_20250305", "name": "web_search"}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "1+1?", "cache_control": {"type": "ephemeral"}}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "easy", "signature": ""},
                {"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "2"},
                {"type": "text", "text": "And?"}]}
        ]}"""
    tool = '{"type":"function","function":{"name":"add","description":"Adds","parameters":{"type": "object"}}}'
    assert Decoded(
        GenerationRequest(
            model="guide",
            messages=(
                Message("system", "Be brief."),
                Message("user", "1+1?"),
                Message("assistant", "Let me see.", "easy", (ToolCall("t1", "add", '{"a": 1}'),)),
                Message("tool", "2", tool_name="add", tool_call_id="t1"),
                Message("user", "And?"),
            ),
            tools=(Tool("add", tool),),
            think=True,
            options=Options(
                num_predict=100, temperature=0.5, top_p=0.9, top_k=5, stop=("END",), min_p=0.1, thinking_budget=2000
            ),
            keep_alive_seconds=60.0,
            early_arguments=True,
            client="ann",
        ),
        stream=True,
        unknown_options=("warp",),
        ignored=("service_tier", "tools[1]", "messages[1].content[1]"),
        thinks_if_it_can=True,
    ) == decode_messages(body)


def test_results_and_text_of_a_user_stay_in_their_order():
    blocks = """[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"},
        {"type": "tool_result", "tool_use_id": "t", "is_error": true,
         "content": [{"type": "text", "text": "no"}, {"type": "text", "text": "file"}]},
        {"type": "text", "text": "c"}]}]"""
    assert (
        Message("user", "a\nb"),
        Message("tool", "Error: no\nfile", tool_call_id="t"),
        Message("user", "c"),
    ) == turns(blocks)


def test_a_system_message_may_stand_among_the_others():
    messages = (
        '[{"role": "user", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"}]'
    )
    assert ("user", "system", "user") == tuple(turn.role for turn in turns(messages) or ())


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ('"Be brief."', "Be brief."),
        ('[{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]', "Be\n\nbrief."),
        (
            '[{"type": "text", "text": "x-anthropic-billing-header: v=1; cch=5f;"}, {"type": "text", "text": "Be."}]',
            "Be.",
        ),
        ('"x-anthropic-billing-header: v=1; cch=5f;\\nBe brief."', "Be brief."),
    ],
)
def test_the_system_prompt_loses_only_the_line_that_is_another_each_time(system, expected):
    decoded = decode(f'"system": {system}')
    assert Message("system", expected) == (decoded.request.messages or ())[0]
    assert ("billing" in system) == ("system.x-anthropic-billing-header" in decoded.ignored)


@pytest.mark.parametrize(
    ("fields", "think"),
    [
        ('"thinking": null', False),
        ('"thinking": {"type": "disabled"}', False),
        ('"thinking": {"type": "enabled", "budget_tokens": 1024}', True),
        ('"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}', "max"),
        ('"output_config": {"effort": "low"}', False),
    ],
)
def test_thinking_is_off_unless_it_is_asked_for(fields, think):
    assert think == decode(fields).request.think


def test_thinking_is_sent_to_who_would_not_see_it_and_that_is_told():
    assert ("thinking.display",) == decode('"thinking": {"type": "adaptive", "display": "omitted"}').ignored
    assert () == decode('"thinking": {"type": "adaptive", "display": "summarized"}').ignored


def test_an_answer_can_be_bound_to_a_schema():
    fields = '"output_config": {"format": {"type": "json_schema", "schema": {"type" : "object"}}}'
    assert ResponseFormat("json_schema", '{"type" : "object"}') == decode(fields).request.response_format


def test_tool_choice_none_drops_the_tools():
    request = decode('"tools": [{"name": "f"}], "tool_choice": {"type": "none"}').request
    assert ((), ToolChoice("none")) == (request.tools, request.tool_choice)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ('{"type": "any"}', ToolChoice("required")),
        ('{"type": "tool", "name": "f", "disable_parallel_tool_use": true}', ToolChoice("required", ("f",), False)),
        ('{"type": "auto", "disable_parallel_tool_use": true}', ToolChoice(parallel=False)),
    ],
)
def test_a_call_can_be_demanded_and_several_forbidden(choice, expected):
    assert expected == decode(f'"tools": [{{"name": "f"}}], "tool_choice": {choice}').request.tool_choice


def test_a_tool_may_be_strict_and_a_format_be_asked_for_by_its_older_name():
    assert decode('"tools": [{"name": "f", "strict": true}]').request.tools[0].strict
    older = '"output_format": {"type": "json_schema", "schema": {"type": "object"}}'
    assert ResponseFormat("json_schema", '{"type": "object"}') == decode(older).request.response_format


SEARCH = """"tools": [{"name": "find_tool", "input_schema": {"type": "object"}},
    {"name": "get_weather", "description": "The weather", "defer_loading": true, "input_schema": {"type": "object"}}]"""
WEATHER = (
    '{"type":"function","function":{"name":"get_weather","description":"The weather","parameters":{"type": "object"}}}'
)
FIND = """{"role": "user", "content": "x"}, {"role": "assistant", "content": [
    {"type": "tool_use", "id": "t", "name": "find_tool", "input": {}}]}"""


def reference(name: str) -> str:
    block = f'{{"type": "tool_reference", "tool_name": "{name}"}}'
    result = f'{{"type": "tool_result", "tool_use_id": "t", "content": [{block}]}}'
    return f'[{FIND}, {{"role": "user", "content": [{result}]}}]'


def change(block: str) -> str:
    return f'[{{"role": "user", "content": "x"}}, {{"role": "system", "content": [{block}]}}]'


def names_of(decoded: Decoded) -> list[str]:
    return [tool.name for tool in decoded.request.tools]


def test_a_deferred_tool_is_not_there_until_a_result_refers_to_it_and_is_shown_where_it_does():
    assert ["find_tool"] == names_of(decode(SEARCH))
    found = decode(SEARCH, reference("get_weather")).request
    assert [True, False] == [tool.is_listed for tool in found.tools]
    assert Tool("get_weather", WEATHER, is_listed=False) == found.tools[1]
    shown = f"This tool can be called now:\n{WEATHER}"
    assert Message("tool", shown, tool_name="find_tool", tool_call_id="t") == (found.messages or ())[-1]


def test_a_reference_to_a_tool_that_has_gone_is_told_to_the_model():
    gone = decode(SEARCH, reference("get_time")).request
    assert 'The tool "get_time" is not available.' == (gone.messages or ())[-1].content
    assert ["find_tool"] == [tool.name for tool in gone.tools]


def test_a_deferred_tool_can_be_demanded_once_it_was_brought_in():
    wanted = SEARCH + ', "tool_choice": {"type": "tool", "name": "get_weather"}'
    assert ("get_weather",) == decode(wanted, reference("get_weather")).request.tool_choice.names
    with pytest.raises(LocalllmError, match="tools does not have it"):
        decode(wanted)


def test_a_message_of_the_systems_adds_and_removes_tools():
    known = '{"type": "tool_addition", "tool": {"type": "tool_reference", "name": "get_weather"}}'
    new = '{"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {"name": "get_time"}}}'
    gone = '{"type": "tool_removal", "tool": {"type": "tool_reference", "name": "find_tool"}}'
    assert ["find_tool", "get_weather"] == names_of(decode(SEARCH, change(known)))
    assert ["find_tool", "get_time"] == names_of(decode(SEARCH, change(new)))
    removed = decode(SEARCH, change(gone))
    assert [] == names_of(removed)
    assert Message("system", 'The tool "find_tool" cannot be called any more.') == (removed.request.messages or ())[-1]


def test_a_search_that_somebody_elses_server_would_run_leaves_every_tool_in_sight():
    decoded = decode(SEARCH.replace("[{", '[{"type": "tool_search_tool_regex_20251119", "name": "s"}, {', 1))
    assert (["find_tool", "get_weather"], True) == (names_of(decoded), decoded.request.tools[1].is_listed)
    assert ("tools[0]",) == decoded.ignored


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (reference(""), r"messages\[2\].content\[0\].content\[0\].tool_name is missing"),
        (change('{"type": "tool_removal"}'), r"messages\[1\].content\[0\].tool.name is missing"),
        (change('{"type": "tool_addition"}'), r"messages\[1\].content\[0\].tool.name is missing"),
        (
            change('{"type": "tool_addition", "tool": {"definition": {"name": "f", "input_schema": 1}}}'),
            r"messages\[1\].content\[0\].tool.definition.input_schema must be an object",
        ),
    ],
)
def test_a_tool_that_is_brought_in_wrongly_is_told(messages, message):
    with pytest.raises(LocalllmError, match=message):
        decode(SEARCH, messages)


def test_a_budget_without_thinking_says_nothing():
    off = decode('"thinking": {"type": "disabled", "budget_tokens": 100}').request
    assert (False, None) == (off.think, off.options.thinking_budget)


def test_a_count_needs_no_max_tokens():
    body = b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'
    assert (Message("user", "x"),) == decode_count(body).request.messages


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"max_tokens": 1, "messages": []}', "model is required"),
        ('{"model": "m", "max_tokens": 1, "messages": []}', "messages is required"),
        ('{"model": "m", "messages": [{}]}', "max_tokens is required and must be positive"),
        ('{"model": "m", "max_tokens": 0, "messages": [{}]}', "max_tokens is required and must be positive"),
    ],
)
def test_what_is_required_is_named(body, message):
    with pytest.raises(LocalllmError) as caught:
        decode_messages(body.encode())
    assert (400, message) == (caught.value.status, caught.value.message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('"max_tokens": 15000000000', 'option "max_tokens" must be between -2 and 2147483647, not 15000000000'),
        ('"max_tokens": 1, "stop_sequences": 5', 'option "stop_sequences" must be of type an array of strings'),
        (
            '"max_tokens": 1, "thinking": {"type": "enabled", "budget_tokens": 1180591620717411303424}',
            'option "thinking.budget_tokens" must be between -1 and 2147483647, not 1180591620717411303424',
        ),
    ],
)
def test_a_bad_option_is_told_by_the_name_that_it_came_with(fields, message):
    with pytest.raises(LocalllmError) as caught:
        decode_messages(f'{{"model": "m", {fields}, "messages": [{{"role": "user", "content": "x"}}]}}'.encode())
    assert (400, message) == (caught.value.status, caught.value.message)


DOCUMENT = """[{"role": "user", "content": [
    {"type": "document", "title": "Notes", "context": "mine", "citations": {"enabled": true},
     "source": {"type": "text", "media_type": "text/plain", "data": "one"}},
    {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "two"}]}},
    {"type": "document", "source": {"type": "content", "content": "three"}},
    {"type": "search_result", "source": "http://a/b", "title": "Found", "content": [{"type": "text", "text": "four"}]},
    {"type": "text", "text": "Sum it up."}]},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [
        {"type": "document", "source": {"type": "text", "data": "five"}}]}]}]"""


def test_a_document_that_is_text_is_read_with_what_is_said_of_it():
    question, _, result = turns(DOCUMENT) or ()
    assert "Notes\nmine\none\ntwo\nthree\nFound\nhttp://a/b\nfour\nSum it up." == question.content
    assert "five" == result.content


def test_what_anthropics_servers_did_is_skipped_and_that_is_told():
    decoded = decode(
        '"stream": false',
        """[{"role": "user", "content": [{"type": "container_upload", "file_id": "f"}, {"type": "text", "text": "a"}]},
            {"role": "assistant", "content": [
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
                {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result"}]},
                {"type": "web_fetch_tool_result", "tool_use_id": "s", "content": {"type": "web_fetch_tool_error"}},
                {"type": "text", "text": "b"}]},
            {"role": "user", "content": "c"}]""",
    )
    assert ["a", "b", "c"] == [message.content for message in decoded.request.messages or ()]
    places = ["messages[0].content[0]", *(f"messages[1].content[{index}]" for index in range(3))]
    assert tuple(places) == decoded.ignored


def test_a_picture_in_a_tools_result_is_left_out_and_that_is_told_to_the_model_and_the_client():
    source = '{"type": "base64", "media_type": "image/png", "data": "aGk="}'
    blocks = f'[{{"type": "text", "text": "a"}}, {{"type": "image", "source": {source}}}]'
    result = f'[{{"role": "user", "content": [{{"type": "tool_result", "tool_use_id": "t", "content": {blocks}}}]}}]'
    decoded = decode('"stream": false', result)
    assert "a\n[image left out: this model reads only text]" == (decoded.request.messages or ())[0].content
    assert ("messages[0].content[0].content[1]",) == decoded.ignored


def test_documents_within_documents_are_no_documents():
    nested = '{"type": "document", "source": {"type": "content", "content": [' * 300
    messages = f'[{{"role": "user", "content": [{nested}{"]}}" * 300}]}}]'
    with pytest.raises(LocalllmError, match=r'content\[0\] has the type "document", but this version reads only text'):
        turns(messages)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (
            '[{"role": "user", "content": [{"type": "document", "source": {"type": "base64", "data": "aGk="}}]}]',
            'messages[0].content[0].source has the type "base64", but this version reads only text',
        ),
        (
            '[{"role": "user", "content": [{"type": "document", "source": {"type": "content", "content": '
            '[{"type": "image"}]}}]}]',
            'messages[0].content[0].source.content[0] has the type "image", but this version reads only text',
        ),
        (
            '[{"role": "user", "content": [{"type": "image", "source": {}}]}]',
            'messages[0].content[0] has the type "image", but this version reads only text',
        ),
        (
            '[{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}]',
            "the last message is the assistant's, and has no text alone to go on from",
        ),
        ('[{"role": "user", "content": [{"type": "text"}]}]', "messages[0].content[0].text is missing"),
        ('[{"role": "tool"}]', 'messages[0].role is "tool", but must be "user", "assistant" or "system"'),
        ('[{"role": "user", "content": [{"type": "tool_result"}]}]', "messages[0].content[0].tool_use_id is missing"),
        (
            '[{"role": "assistant", "content": [{"type": "tool_use", "name": "f"}]}]',
            "tool_use block missing required 'id' field",
        ),
        (
            '[{"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": []}]}]',
            "messages[0].content[0].input must be an object",
        ),
    ],
)
def test_a_bad_message_is_told_what_is_wrong_with_it(messages, message):
    with pytest.raises(LocalllmError) as caught:
        turns(messages)
    assert (400, message) == (caught.value.status, caught.value.message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('"thinking": {"type": "deep"}', 'thinking.type is "deep", but must be "enabled", "adaptive" or "disabled"'),
        ('"tool_choice": {"type": "any"}', "tool_choice demands a call, but there are no tools"),
        (
            '"tool_choice": {"type": "tool"}',
            'tool_choice.type must be "auto", "any", "none", or "tool" with a name',
        ),
        (
            '"tools": [{"name": "f"}], "tool_choice": {"type": "tool", "name": "g"}',
            "tool_choice names g, but tools does not have it",
        ),
        ('"tools": [{"input_schema": {}}]', "tools[0].name is missing"),
        ('"tools": [{"name": "f", "input_schema": []}]', "tools[0].input_schema must be an object"),
        ('"temperature": "hot"', 'option "temperature" must be of type float32'),
    ],
)
def test_a_bad_field_is_told_what_is_wrong_with_it(fields, message):
    with pytest.raises(LocalllmError) as caught:
        decode(fields)
    assert (400, message) == (caught.value.status, caught.value.message)


def encoder(stop_sequences=(), max_tokens=9) -> AnthropicEncoder:
    return AnthropicEncoder("msg_1", "guide", stop_sequences, max_tokens, request_id="req_1")


def streamed(*events, **options):
    one = encoder(**options)
    text = b"".join(one.chunk(event, 0) for event in events).decode()
    found = []
    for block in text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        found.append(value)
    return found


EVENTS = (
    PromptProgress(0, 26),
    PromptProgress(26, 26),
    ThinkingDelta("Hm"),
    ThinkingDelta("!"),
    ContentDelta(""),
    ContentDelta("Sky"),
    ToolCallDelta(0, "call_1", "add"),
    ToolCallDelta(0, arguments='{"a": 1}'),
    ToolCallDelta(1, "call_2", "add", "{}"),
    Finished("tool_calls", Usage(26, 8, 7)),
)
USAGE = {"input_tokens": 18, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 8, "output_tokens": 7}


def block(index, content, *deltas):
    return [
        {"type": "content_block_start", "index": index, "content_block": content},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def call(id):
    return {"type": "tool_use", "id": id, "name": "add", "input": {}}


def json_delta(text):
    return {"type": "input_json_delta", "partial_json": text}


def test_a_stream_has_the_events_in_anthropics_order():
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "guide", "content": []}
    start_usage = {**USAGE, "input_tokens": 26, "cache_read_input_tokens": 0, "output_tokens": 0}
    thinking = {"type": "thinking", "thinking": "", "signature": ""}
    assert [
        {
            "type": "message_start",
            "message": {**message, "stop_reason": None, "stop_sequence": None, "usage": start_usage},
        },
        *block(
            0,
            thinking,
            {"type": "thinking_delta", "thinking": "Hm"},
            {"type": "thinking_delta", "thinking": "!"},
            {"type": "signature_delta", "signature": SIGNATURE},
        ),
        *block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Sky"}),
        *block(2, call("call_1"), json_delta(""), json_delta('{"a": 1}')),
        *block(3, call("call_2"), json_delta("{}")),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": USAGE},
        {"type": "message_stop"},
    ] == streamed(*EVENTS)


def test_a_whole_answer_has_the_same_blocks():
    assert {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "guide",
        "content": [
            {"type": "thinking", "thinking": "Hm!", "signature": SIGNATURE},
            {"type": "text", "text": "Sky"},
            {"type": "tool_use", "id": "call_1", "name": "add", "input": {"a": 1}},
            {"type": "tool_use", "id": "call_2", "name": "add", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": USAGE,
    } == json.loads(encoder().whole(EVENTS, 0))


@pytest.mark.parametrize(
    ("finished", "reason", "sequence"),
    [
        (Finished("stop"), "end_turn", None),
        (Finished("stop", stop_text="END"), "stop_sequence", "END"),
        (Finished("stop", stop_text="of the Modelfile"), "end_turn", None),
        (Finished("length", Usage(3, 0, 9)), "max_tokens", None),
        (Finished("length", Usage(3, 0, 8)), "model_context_window_exceeded", None),
    ],
)
def test_the_reason_of_the_end_is_told_in_anthropics_words(finished, reason, sequence):
    expected = {"stop_reason": reason, "stop_sequence": sequence}
    *_, delta, stop = streamed(ContentDelta("a"), finished, stop_sequences=("END",))
    assert (expected, "message_stop") == (delta["delta"], stop["type"])
    whole = json.loads(encoder(("END",)).whole([ContentDelta("a"), finished], 0))
    assert expected == {name: whole[name] for name in expected}


def test_a_stream_that_fails_ends_with_an_error():
    *_, error = streamed(ContentDelta("a"), Failed("queue_full", 503, "busy", "later"))
    told = {"type": "overloaded_error", "message": "busy", "hint": "later"}
    assert {"type": "error", "error": told, "request_id": "req_1"} == error


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (500, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_errors_have_the_types_that_anthropics_clients_know(status, kind):
    assert kind == json.loads(error_body(Failed("c", status, "m"), "r1"))["error"]["type"]


@pytest.mark.parametrize(
    ("last", "continues"),
    [
        ('{"role": "assistant", "content": "The answer is"}', True),
        ('{"role": "user", "content": "Well?"}', False),
    ],
)
def test_a_last_message_of_the_assistant_is_the_beginning_of_the_answer(last, continues):
    decoded = decode('"stream": false', f'[{{"role": "user", "content": "x"}}, {last}]')
    assert continues is decoded.request.rendering.continues_final_message
