"""What a template demands of turns with calls, by templates that show them in some forms only."""

from __future__ import annotations

from datetime import datetime

import pytest

from localllm.chat.template import ChatTemplate
from localllm.errors import TemplateError
from localllm.generation import Message, ToolCall

USER = Message("user", "Hi")
CALL = ToolCall("1", "f", '{"a": 1}')
# Calls stand in turns without a content only, their arguments joined to a text.
NULL_CONTENT = """\
{%- for m in messages -%}
{%- if m.content is none -%}
{%- for c in m.tool_calls %}({{ c.function.name + c.function.arguments }}){% endfor -%}
{%- else %}[{{ m.content }}]{% endif -%}
{%- endfor -%}"""


def rendered(source: str, *turns: Message) -> str:
    made = ChatTemplate(source, today=lambda: datetime(2031, 2, 3))
    return made.render(turns)


def test_an_empty_text_beside_a_call_is_none_where_a_template_leaves_the_call_out_otherwise():
    assert '[Hi](f{"a": 1})[R]' == rendered(
        NULL_CONTENT, USER, Message("assistant", tool_calls=(CALL,)), Message("tool", "R")
    )


def test_a_text_becomes_a_turn_before_the_calls_that_it_would_hide():
    turn = Message("assistant", "I look.", tool_calls=(CALL, CALL))
    assert '[Hi][I look.](f{"a": 1})(f{"a": 1})[]' == rendered(NULL_CONTENT, USER, turn, Message("assistant"))


def test_an_empty_text_stays_one_where_calls_are_shown_beside_it():
    source = "{% for m in messages %}{{ m.content is none }}{{ m.tool_calls }}{% endfor %}"
    assert "None" not in rendered(source, Message("assistant", tool_calls=(CALL,)))
    assert "True" not in rendered(source, Message("assistant", tool_calls=(CALL,)))


CALLED = Message("assistant", tool_calls=(ToolCall("call_x", "f", '{"a": 1}'), ToolCall("call_y", "g", "{}")))
# The name of a tool is to be read in the id of a call.
IDS_ONLY = """\
{%- for m in messages -%}
{%- for c in m.tool_calls or [] %}({{ c.id }}={{ c.function.arguments | tojson }}){% endfor -%}
[{{ m.tool_call_id or m.content }}]
{%- endfor -%}"""


def test_ids_have_the_names_of_their_tools_in_them_where_a_template_writes_no_other_names():
    results = [Message("tool", "R", tool_call_id="call_y"), Message("tool", "S", tool_call_id="call_x")]
    again = Message("assistant", tool_calls=(ToolCall("call_x", "g", "{}"),))
    assert (
        '[Hi](functions.f:0={"a": 1})(functions.g:1={})[][functions.g:1][functions.f:0](functions.g:2={})[]'
        == rendered(IDS_ONLY, USER, CALLED, *results, again)
    )


def test_ids_stay_where_names_stand_beside_them():
    source = IDS_ONLY.replace("c.id", "c.function.name ~ c.id")
    assert '[Hi](fcall_x={"a": 1})(gcall_y={})[]' == rendered(source, USER, CALLED)


def test_a_result_that_would_be_taken_apart_is_a_list_of_one_text():
    source = "{% for m in messages if m.role == 'tool' %}{% for one in m.content %}<{{ one }}>{% endfor %}{% endfor %}"
    assert "<sunny>" == rendered(source, USER, CALLED, Message("tool", "sunny"))
    plain = source.replace("{% for one in m.content %}<{{ one }}>{% endfor %}", "<{{ m.content }}>")
    assert "<sunny>" == rendered(plain, USER, CALLED, Message("tool", "sunny"))


def test_an_empty_text_is_one_empty_part_where_a_template_looks_into_the_first_of_a_call():
    source = (
        "{% for m in messages %}{% if m.tool_calls and m.content[0].thought %}!{% endif %}"
        "<{% if m.content is string %}{{ m.content }}{% else %}"
        "{{ m.content | map(attribute='text') | join }}{% endif %}"
        ">{% endfor %}"
    )
    assert "<Hi><>" == rendered(source, USER, CALLED)
    assert "<Hi><I look.>" == rendered(source, USER, Message("assistant", "I look.", tool_calls=(CALL,)))


def test_an_empty_system_text_leaves_no_trace_in_a_users_turn():
    source = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<{{ m.content }}>{% endfor %}"
    )
    assert "<Hi>" == rendered(source, Message("system", ""), USER)
    assert "<Be brief.\n\nHi>" == rendered(source, Message("system", "Be brief."), USER)


def test_a_system_text_that_a_template_would_leave_out_begins_the_users_turn():
    source = "{% for m in messages if m.role != 'system' %}<{{ m.content }}>{% endfor %}"
    assert "<Be brief.\n\nHi>" == rendered(source, Message("system", "Be brief."), USER)
    assert "<Hi>" == rendered(source, USER)


def test_arguments_that_a_template_reads_as_json_may_be_an_object_already():
    source = "{% for m in messages %}{% for c in m.tool_calls or [] %}{% for k, v in ARGUMENTS | from_json | items %}"
    source += "{{ k }}={{ v }}{% endfor %}{% endfor %}{% endfor %}"
    for arguments in ("c.function.arguments", "c.function.arguments | tojson"):
        assert "a=1" == rendered(source.replace("ARGUMENTS", arguments), USER, CALLED)


@pytest.mark.parametrize("text", ["'[' * 100000", "'9' * 5000", "'{'", "'nul'"])
def test_a_text_that_is_no_json_is_an_error_of_the_template(text):
    with pytest.raises(TemplateError):
        rendered("{% for m in messages %}{{ (" + text + ") | from_json }}{% endfor %}", USER)
