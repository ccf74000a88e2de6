"""What a template demands of turns with calls, by templates that show them in some forms only."""

from __future__ import annotations

from datetime import datetime

from localllm.chat.template import ChatTemplate
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
