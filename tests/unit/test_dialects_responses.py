"""OpenAI's Responses: its bodies as requests."""

from __future__ import annotations

import json

import pytest

from localllm.dialects import openai_responses
from localllm.dialects.openai_responses import DecodedResponse
from localllm.dialects.openai_responses_items import place, sealed, stored_items, unsealed
from localllm.dialects.openai_responses_tools import CalledTool
from localllm.errors import InvalidFieldError, LocalllmError, UnsupportedError
from localllm.generation import GenerationRequest, Message, Options, ResponseFormat, ToolCall, ToolChoice

ADD = {"type": "function", "name": "add", "description": "Add", "parameters": {"type": "object", "properties": {}}}
PATCH = {"type": "custom", "name": "patch", "description": "Patch a file"}
CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "2"}


def decoded(body=None, *, earlier=(), found=None, **fields) -> DecodedResponse:
    text = json.dumps({"model": "m", "input": "hi", **fields} if body is None else body).encode()
    placed = [place(json.dumps(item).encode(), "earlier") for item in earlier]
    return openai_responses.decode(openai_responses.read_body(text), text, placed, (found or {}).get)


def request(**fields) -> GenerationRequest:
    return decoded(**fields).decoded.request


def messages(*items, **fields) -> tuple[Message, ...]:
    return request(input=list(items), **fields).messages or ()


def say(role: str, text: str) -> dict:
    return {"role": role, "content": text}


def test_a_text_is_a_user_turn_after_the_instructions():
    assert (Message("user", "hi"),) == request().messages
    assert (Message("system", "be brief"), Message("user", "hi")) == request(instructions="be brief").messages


def test_messages_may_leave_out_their_type_and_have_parts_of_text():
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    found = messages(say("developer", "rules"), {"type": "message", "role": "user", "content": parts})
    assert (Message("system", "rules"), Message("user", "a\nb")) == found


def test_what_an_answer_consisted_of_becomes_one_turn_again():
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    text = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I add"}]}
    found = messages(say("user", "add"), thought, text, CALL, RESULT, say("user", "thanks"))
    assert (
        Message("user", "add"),
        Message("assistant", "I add", "hm", (ToolCall("c1", "add", '{"a": 1}'),)),
        Message("tool", "2", tool_name="add", tool_call_id="c1"),
        Message("user", "thanks"),
    ) == found


def test_calls_side_by_side_are_one_turn_and_calls_after_results_another():
    other = {**CALL, "call_id": "c2"}
    side_by_side = messages(say("user", "x"), CALL, other, RESULT, {**RESULT, "call_id": "c2"})
    one_by_one = messages(say("user", "x"), CALL, RESULT, other, {**RESULT, "call_id": "c2"})
    assert ["user", "assistant", "tool", "tool"] == [message.role for message in side_by_side]
    assert ["user", "assistant", "tool", "assistant", "tool"] == [message.role for message in one_by_one]


def test_thinking_comes_back_from_its_text_or_sealed_or_as_a_summary():
    def thinking(**fields) -> str | None:
        return messages(say("user", "x"), {"type": "reasoning", **fields}, say("assistant", "y"))[1].thinking

    summary = [{"type": "summary_text", "text": "short"}]
    assert "long" == thinking(summary=summary, content=[{"type": "reasoning_text", "text": "long"}])
    assert "long ü" == thinking(summary=summary, encrypted_content=sealed("long ü"))
    assert "short" == thinking(summary=summary, encrypted_content="gAAAAAsomebody-elses")
    assert thinking(summary=[]) is None
    assert "" == unsealed("localllm1.no base64!")


def test_a_custom_tool_is_a_function_with_one_text():
    found = decoded(tools=[{**PATCH, "format": {"type": "grammar", "syntax": "lark", "definition": "start: X"}}])
    (tool,) = found.decoded.request.tools
    function = json.loads(tool.definition)["function"]
    assert ("patch", ["input"]) == (tool.name, function["parameters"]["required"])
    assert "start: X" in function["parameters"]["properties"]["input"]["description"]
    assert {"patch": CalledTool("custom", "patch")} == dict(found.tools)
    assert ((), "start: X", True) == (found.decoded.ignored, tool.input_grammar, tool.strict)
    call = {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": 'a "b"'}
    result = {"type": "custom_tool_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "ok"}]}
    _, said, told = messages(say("user", "x"), call, result)
    assert {"input": 'a "b"'} == json.loads(said.tool_calls[0].arguments)
    assert Message("tool", "ok", tool_name="patch", tool_call_id="c1") == told


def test_tools_of_a_namespace_have_its_name_before_theirs():
    found = decoded(tools=[{"type": "namespace", "name": "files", "tools": [ADD, PATCH]}])
    assert ["files__add", "files__patch"] == [tool.name for tool in found.decoded.request.tools]
    assert CalledTool("function", "add", "files") == found.tools["files__add"]
    _, said, _ = messages(say("user", "x"), {**CALL, "namespace": "files"}, RESULT)
    assert "files__add" == said.tool_calls[0].name


def test_kinds_of_tools_that_openai_runs_are_skipped_and_told():
    hosted = ["web_search", "image_generation", "local_shell", "mcp", "file_search", "something_new"]
    found = decoded(tools=[*({"type": kind} for kind in hosted), ADD])
    assert ["add"] == [tool.name for tool in found.decoded.request.tools]
    assert tuple(f"tools[{index}]" for index in range(6)) == found.decoded.ignored


def test_a_function_may_be_written_as_in_chat_completions():
    function = {"name": "add", "parameters": None}
    (tool,) = request(tools=[{"type": "function", "function": function}]).tools
    assert {"type": "object", "properties": {}} == json.loads(tool.definition)["function"]["parameters"]


def test_tool_choice_leaves_all_some_or_no_tools():
    tools = [ADD, PATCH]
    assert 2 == len(request(tools=tools, tool_choice="auto").tools)
    assert () == request(tools=tools, tool_choice="none").tools
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "patch"}]}
    assert ["patch"] == [tool.name for tool in request(tools=tools, tool_choice=allowed).tools]


def test_a_call_can_be_demanded_of_any_tool_or_of_one():
    tools = [ADD, PATCH]
    assert ToolChoice("required") == request(tools=tools, tool_choice="required").tool_choice
    one = request(tools=tools, tool_choice={"type": "custom", "name": "patch"}, parallel_tool_calls=False)
    assert ToolChoice("required", ("patch",), False) == one.tool_choice
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "add"}]}
    some = request(tools=tools, tool_choice=allowed)
    assert (["add"], ToolChoice("required")) == ([tool.name for tool in some.tools], some.tool_choice)


def test_a_tool_of_a_namespace_is_chosen_by_its_own_name_unless_another_has_it_alone():
    tools = [{"type": "namespace", "name": "files", "tools": [ADD, PATCH]}, ADD]
    one = request(tools=tools, tool_choice={"type": "custom", "name": "patch"})
    assert ("files__patch",) == one.tool_choice.names
    assert ("add",) == request(tools=tools, tool_choice={"type": "function", "name": "add"}).tool_choice.names
    allowed = {"type": "allowed_tools", "tools": [{"type": "custom", "name": "patch"}, ADD]}
    some = request(tools=tools, tool_choice=allowed)
    assert ["files__patch", "add"] == [tool.name for tool in some.tools]


def test_the_shape_of_the_answer_is_asked_for_in_text():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    wanted = {"type": "json_schema", "name": "x", "strict": True, "schema": schema}
    found = request(text={"format": wanted}).response_format
    assert ("json_schema", schema) == (found.kind, json.loads(found.schema))
    assert ResponseFormat("json_object") == request(text={"format": {"type": "json_object"}}).response_format
    assert request(text={"format": {"type": "text"}, "verbosity": "low"}).response_format is None


def test_options_are_the_clients_under_openais_names_and_ours():
    found = request(max_output_tokens=5, temperature=0.1, top_p=0.2, stop=["x"], num_ctx=64, options={"top_k": 3})
    assert Options(num_predict=5, temperature=0.1, top_p=0.2, stop=("x",), num_ctx=64, top_k=3) == found.options


def test_effort_is_a_level_of_thinking_and_a_model_that_cannot_may_leave_it():
    found = decoded(reasoning={"effort": "minimal", "summary": "auto"})
    assert ("low", True, True) == (found.decoded.request.think, found.summarizes, found.decoded.thinks_if_it_can)
    assert request(reasoning={"effort": "none"}).think is False
    assert request(reasoning={"summary": "none"}).think is None
    assert not decoded(reasoning={"summary": "none"}).summarizes


def test_logprobs_are_asked_for_by_include_or_by_their_number():
    assert request().logprobs is None
    assert 0 == request(include=["message.output_text.logprobs"]).logprobs
    assert 3 == request(top_logprobs=3).logprobs


def test_truncation_auto_drops_old_turns_and_otherwise_nothing_is_dropped():
    assert ("truncate", "refuse", "refuse") == tuple(
        request(truncation=value).context_policy for value in ("auto", "disabled", None)
    )


def test_a_client_is_known_by_its_user_or_by_its_session():
    assert "u" == request(user="u", prompt_cache_key="k").client
    assert "k" == request(prompt_cache_key="k").client


def test_the_probes_of_agents_are_answered():
    assert (Message("user", ""),) == request(input="", max_output_tokens=1).messages
    assert (Message("user", ""),) == request(input=[]).messages
    assert (Message("system", "x"), Message("user", "")) == request(input=[], instructions="x").messages


def test_what_codex_sends_is_understood():
    body = {
        "model": "guide",
        "stream": True,
        "store": False,
        "input": [
            {"type": "message", "id": "m1", "role": "developer", "content": [{"type": "input_text", "text": "rules"}]},
            {"type": "message", "id": "m2", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        ],
        "tools": [ADD, {"type": "namespace", "name": "agents", "description": "", "tools": [ADD]},
                  {"type": "web_search", "external_web_access": False}],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "session",
        "client_metadata": {"x": "y"},
    }  # fmt: skip
    found = decoded(body)
    assert (Message("system", "rules"), Message("user", "hi")) == found.decoded.request.messages
    assert ["add", "agents__add"] == [tool.name for tool in found.decoded.request.tools]
    assert {"client_metadata", "tools[2]"} == set(found.decoded.ignored)
    assert (True, True, "session") == (found.summarizes, found.seals_thinking, found.decoded.request.client)


def test_input_goes_on_from_the_earlier_conversation_without_its_instructions():
    found = decoded(earlier=[say("user", "a"), say("assistant", "b"), CALL], input=[RESULT], instructions="new")
    roles = [message.role for message in found.decoded.request.messages]
    assert ["system", "user", "assistant", "tool"] == roles
    assert 1 == len(found.items)


def test_an_earlier_conversation_needs_no_new_input():
    body = {"model": "m", "previous_response_id": "resp_1"}
    assert (Message("user", "a"),) == decoded(body, earlier=[say("user", "a")]).decoded.request.messages


def test_items_of_stored_responses_are_referred_to_by_id():
    stored = {"msg_1": json.dumps(say("assistant", "b")).encode()}
    references = [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}]
    for reference in references:
        found = request(input=[say("user", "a"), reference, say("user", "c")], found=stored)
        assert ["a", "b", "c"] == [message.content for message in found.messages]
    with pytest.raises(InvalidFieldError, match="there is no such item"):
        request(input=[{"type": "item_reference", "id": "msg_2"}], found=stored)


def test_items_are_kept_whole_and_with_an_id():
    items = decoded(input=[say("user", "a"), {**CALL, "id": "fc_own", "extra": [1]}]).items
    one, other = stored_items(items, lambda kind, index: f"{kind}_{index}")
    assert {
        "id": "msg_0",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_text", "text": "a"}],
    } == json.loads(one.text)
    assert ("fc_own", [1]) == (other.id, json.loads(other.text)["extra"])


def test_what_another_provider_left_in_the_conversation_is_skipped_and_told():
    found = decoded(input=[say("user", "a"), {"type": "web_search_call", "id": "ws_1", "status": "completed"}])
    assert ((Message("user", "a"),), ("input[1]",)) == (found.decoded.request.messages, found.decoded.ignored)


def test_a_call_that_was_cut_off_does_not_end_the_conversation_for_good():
    _, said, _ = messages(say("user", "x"), {**CALL, "arguments": '{"a": '}, RESULT)
    assert {"arguments": '{"a": '} == json.loads(said.tool_calls[0].arguments)


def test_an_answer_repeats_what_was_asked():
    found = decoded(tools=[ADD], metadata={"a": "b"}, text={"format": {"type": "json_object"}}, instructions="x")
    echo = json.loads(b"{" + openai_responses.echo_json(found.echo, store=True)[1:])
    assert ([ADD], {"a": "b"}, {"format": {"type": "json_object"}}, "x", True, "auto", True) == tuple(
        echo[name]
        for name in ("tools", "metadata", "text", "instructions", "store", "tool_choice", "parallel_tool_calls")
    )


def test_what_changes_nothing_is_told():
    found = decoded(
        max_tool_calls=3,
        text={"verbosity": "low"},
        include=["file_search_call.results", "reasoning.encrypted_content"],
    )
    told = {"max_tool_calls", "text.verbosity", "include.file_search_call.results"}
    assert told == set(found.decoded.ignored)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"background": True}, "background is not supported"),
        ({"conversation": "conv_1"}, "conversation is not supported"),
        ({"prompt": {"id": "p"}}, "prompt is not supported"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
         r'input\[0\].content\[0\] has the type "input_image", but this version reads only text'),
    ],
)  # fmt: skip
def test_what_this_version_cannot_do_is_refused(fields, message):
    with pytest.raises(UnsupportedError, match=message):
        decoded(**fields)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"input": None}, "input"),
        ({"input": 3}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"input": [{"type": "message", "role": "nobody", "content": ""}]}, "input[0].role"),
        ({"input": [{"type": "who_knows"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        ({"input": [RESULT]}, "input[0].call_id"),
        ({"input": [{"type": "function_call", "name": "x"}]}, "input[0].call_id"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{**ADD, "parameters": []}]}, "tools[0].parameters"),
        ({"tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "z"}]}}, "tool_choice.tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "web_search"}, "tools": [ADD]}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort"),
        ({"truncation": "middle"}, "truncation"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"model": ""}, "model"),
    ],
)
def test_a_bad_field_is_named(fields, field):
    with pytest.raises(LocalllmError) as caught:
        decoded(**fields)
    assert (400, field) == (caught.value.status, caught.value.field)


def test_a_bad_limit_is_told_by_the_name_that_it_came_with():
    with pytest.raises(LocalllmError, match='option "max_output_tokens" must be between -2 and 2147483647, not -3'):
        decoded(max_output_tokens=-3)


@pytest.mark.parametrize("where", ['"metadata": {"a": "\xff"}', '"tools": [{"type": "x", "y": "\xff"}]'])
def test_what_is_only_repeated_is_utf8_too(where):
    with pytest.raises(InvalidFieldError, match="not UTF-8"):
        openai_responses.read_body(f'{{"model": "m", "input": "x", {where}}}'.encode("latin-1"))


def test_half_an_emoji_in_an_item_is_mended():
    text = b'{"model": "m", "input": [{"role": "user", "content": "a\\ud83d"}]}'
    found = openai_responses.decode(openai_responses.read_body(text), text, (), lambda _: None)
    assert (Message("user", "a\ufffd"),) == found.decoded.request.messages


def test_a_picture_in_a_tools_result_is_left_out_and_that_is_told_to_the_model_and_the_client():
    call = {"type": "function_call", "call_id": "c1", "name": "view_image", "arguments": "{}"}
    seen = [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "data:image/png;base64,aGk="}]
    found = decoded(input=[call, {**RESULT, "output": seen}]).decoded
    assert "a\n[input_image left out: this model reads only text]" == (found.request.messages or ())[-1].content
    assert ("input[1].output[1]",) == found.ignored
