"""Rendering a conversation with a model's template, and what a hostile template cannot do."""

from __future__ import annotations

import tracemalloc
from datetime import datetime

import pytest

from localllm.chat.template import MAX_OUTPUT_CHARACTERS, MAX_SOURCE_CHARACTERS, ChatTemplate
from localllm.errors import TemplateError
from localllm.generation import Message, Tool, ToolCall

# In the manner of Qwen 3: tools in the system turn, thinking kept behind the last question only, tagged calls.
QWEN_LIKE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- 'Tools:' }}
    {%- for tool in tools %}
        {{- '\\n' ~ (tool | tojson) }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=0) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{%- continue %}{%- endif %}
    {{- '<|im_start|>' + ('user' if message.role == 'tool' else message.role) + '\\n' }}
    {%- if message.reasoning_content is defined and loop.index0 > ns.last %}
        {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
    {%- endif %}
    {%- if message.role == 'tool' %}
        {{- '<tool_response>\\n' + message.content + '\\n</tool_response>' }}
    {%- else %}
        {{- message.content }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<tool_call>\\n{"name": "' ~ call.function.name ~ '", "arguments": ' }}
        {{- call.function.arguments | tojson ~ '}\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""
USER = Message("user", "Hi")
WEATHER = Tool("weather", '{"type": "function", "function": {"name": "weather", "description": "Für <b>"}}')


def template(source: str | None, **tokens: str) -> ChatTemplate:
    return ChatTemplate(source, today=lambda: datetime(2031, 2, 3), **tokens)


def rendered(source: str, *messages: Message, **variables: object) -> str:
    return template(source).render(messages or (USER,), **variables)


def test_a_plain_conversation_renders_turn_by_turn():
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHo<|im_end|>\n<|im_start|>user\nAgain<|im_end|>\n<|im_start|>assistant\n"
    )
    turns = [Message("system", "Be brief."), USER, Message("assistant", "Ho", thinking="h"), Message("user", "Again")]
    assert expected == rendered(QWEN_LIKE, *turns)


def test_tools_calls_results_and_thinking_reach_the_template():
    call = Message(
        "assistant", thinking="Look.", tool_calls=(ToolCall("call_1", "weather", '{"z": "Zürich", "a": [1.0, null]}'),)
    )
    expected = (
        '<|im_start|>system\nTools:\n{"type": "function", "function": {"name": "weather", "description": "Für <b>"}}'
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\nLook.\n</think>\n\n\n"
        '<tool_call>\n{"name": "weather", "arguments": {"z": "Zürich", "a": [1.0, null]}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n22°\n</tool_response><|im_end|>\n"
    )
    turns = [USER, call, Message("tool", "22°", tool_name="weather", tool_call_id="call_1")]
    assert expected == template(QWEN_LIKE).render(turns, [WEATHER], add_generation_prompt=False)


THINK = "{{ enable_thinking is defined }} {{ enable_thinking }} {{ thinking }} {{ reasoning_effort }}"


@pytest.mark.parametrize(
    ("think", "expected"),
    [
        (None, "False   "),
        (True, "True True True "),
        (False, "True False False "),
        ("high", "True True True high"),
    ],
)
def test_think_becomes_the_variables_that_templates_read(think, expected):
    assert expected == rendered(THINK, think=think)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", "<s>Hi</s>"),
        ("{{ tools is none }} {{ documents is none }} {{ mood }}", "True True calm"),
        ("{{ strftime_now('%d %b %Y') }}", "03 Feb 2031"),
        (
            "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}"
            "{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "023",
        ),
        ("a{% generation %}b{% set x = 1 %}{% endgeneration %}c", "abc"),
        ("  {% if true %}\n  x\n  {% endif %}\ny\n", "  x\ny"),
        ("""{{ {"b": "é<'&", "a": 1} | tojson }}""", '{"b": "é<\'&", "a": 1}'),
        (
            """{{ {"b": "é", "a": [1]} | tojson(indent=2, sort_keys=true) }}""",
            '{\n  "a": [\n    1\n  ],\n  "b": "é"\n}',
        ),
        ("""{{ {"a": "é"} | tojson(ensure_ascii=true, separators=(",", ":")) }}""", '{"a":"\\u00e9"}'),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m('a') ~ 1 ~ none }}", "<a>1None"),
        ("{% set x %}a{% endset %}{{ (x + 'b') * 2 }}{{ 7 % 4 }}{{ 2 ** 5 }}{{ '%s-%d' % ('q', 4) }}", "abab332q-4"),
        (
            "{{ ['a', 'b'] | map('upper') | join(', ') }}{{ 'a.b'.split('.')[-1] }}{{ 'a' | replace('a', 'bb') }}",
            "A, Bbbb",
        ),
        ("{{ missing.get }}", None),
    ],
)
def test_the_language_is_that_of_transformers(source, expected):
    made = template(source, bos_token="<s>", eos_token="</s>")
    if expected is None:
        with pytest.raises(TemplateError):
            made.render([USER])
    else:
        assert expected == made.render([USER], mood="calm")


def test_a_model_without_a_template_gets_chatml_and_says_so():
    made = template(None)
    assert made.is_default
    assert template("  ").is_default
    assert not template("x").is_default
    expected = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert expected == made.render([Message("system", "S"), USER])


NO_SYSTEM = """\
{%- for m in messages -%}
{%- if m.role == 'system' %}{{ raise_exception('No system turns here') }}{% endif -%}
[{{ m.role }}:{{ m.content }}]
{%- endfor -%}"""


def test_a_template_without_a_system_role_gets_the_text_in_the_first_user_turn():
    assert "[user:S\n\nHi]" == rendered(NO_SYSTEM, Message("system", "S"), USER)
    assert "[user:S]" == rendered(NO_SYSTEM, Message("system", "S"))
    turns = [Message("system", "S"), Message("assistant", "A"), USER, Message("system", "T"), USER]
    assert "[assistant:A][user:S\n\nT\n\nHi][user:Hi]" == rendered(NO_SYSTEM, *turns)


def test_a_template_that_wants_nine_character_call_ids_gets_them():
    source = """\
{%- for m in messages -%}
{%- for c in m.tool_calls or [] -%}
{%- if c.id | length != 9 %}{{ raise_exception('nine') }}{% endif -%}({{ c.id }})
{%- endfor -%}
{{ m.tool_call_id }}
{%- endfor -%}"""
    call = Message("assistant", tool_calls=(ToolCall("call_k3v9x2mq", "f", "{}"),))
    result = Message("tool", "r", tool_call_id="call_k3v9x2mq")
    assert "(lk3v9x2mq)lk3v9x2mq" == rendered(source, USER, call, result)
    short = Message("assistant", tool_calls=(ToolCall("7", "f", "{}"),))
    assert "(000000007)" == rendered(source, USER, short)


def test_a_template_that_iterates_over_no_tools_gets_an_empty_list():
    assert "Hi" == rendered("{% for t in tools %}{{ t }}{% endfor %}{{ messages[0].content }}")


def test_a_refusal_keeps_the_words_of_the_template():
    with pytest.raises(TemplateError, match=r"\ARoles must alternate\Z"):
        rendered("{{ raise_exception('Roles must alternate') }}")


def test_a_refusal_without_end_is_cut():
    with pytest.raises(TemplateError) as caught:
        rendered("{{ raise_exception('x' * 10**6) }}")
    assert "x" * 500 == caught.value.message


def test_a_syntax_error_names_its_line():
    with pytest.raises(TemplateError, match="line 3"):
        template("a\nb\n{% if %}\n")


@pytest.mark.parametrize(
    "source",
    [
        "{{ 1 / 0 }}",
        "{{ none + 'a' }}",
        "{{ messages[7].content.x }}",
        "{{ {'a': missing} | tojson }}",
        "{{ 'é'.nothing() }}",
        "{% include 'other' %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ [].append(1) }}",
        "{% set ns = namespace() %}{% set ns.ns = ns %}{{ ns }}",
    ],
)
def test_a_fault_in_a_template_is_a_template_error(source):
    with pytest.raises(TemplateError):
        rendered(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'] }}",
        "{{ '' | attr('__class__') | string }}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__ }}",
        "{{ range.__init__ }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ messages.clear() }}",
        "{{ (messages | map(attribute='__class__') | list)[0].x }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ self._TemplateReference__context }}",
        "{{ namespace.__init__ }}",
        "{% set n = namespace(a=1) %}{{ n.__class__ }}",
        "{% set n = namespace(a=1) %}{{ n._Namespace__attrs.a.__class__.x }}",
        "{% for m in messages %}{{ loop._iterable }}{% endfor %}",
        "{% for m in messages %}{{ loop.__class__.__init__.__globals__ }}{% endfor %}",
        "{{ messages[0].__class__ }}",
        "{{ messages[0].setdefault('x', 1) }}",
        "{{ ''.encode().x }}",
        "{% macro m() %}{% endmacro %}{{ m.__call__ }}",
    ],
)
def test_a_walk_through_attributes_is_refused(source):
    with pytest.raises(TemplateError):
        rendered(source)


def test_attributes_are_looked_up_as_jinja_does():
    source = (
        "{% set n = namespace(a=1) %}{{ n.a }}{{ n.b }}{{ n.b is defined }}{{ messages[0].items is callable }}"
        "{{ messages[0].role }}{{ messages[0].nothing is defined }}"
        "{{ 'a-b'.split('-')[1] }}{{ 'x'.nothing is defined }}"
        "{% for m in messages %}{{ loop.index }}{{ loop.first }}{{ loop.nothing is defined }}{% endfor %}"
        "{{ {'keys': 1}.keys is callable }}"
    )
    assert "1FalseTrueuserFalsebFalse1TrueFalseTrue" == rendered(source)


DOUBLING = (
    "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = OPERATION %}{% endfor %}"
    "{{ ns.x | length }}"
)
LOOPS = "{% for i in range(100000) %}{% for j in range(100000) %}" + "xxxxxxxxxx" * 100 + "{% endfor %}{% endfor %}"
HOARDING = (
    "{% set ns = namespace(l=[]) %}{% set x = 'x' * 10**7 %}"
    "{% for i in range(100000) %}{% set ns.l = ns.l + [COPY] %}{% endfor %}"
)
BOMBS = [
    "{{ 'x' * 10**10 }}",
    "{{ 10**10 * 'x' }}",
    "{{ ([0] * 10**10) | length }}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ 'x' | center(10**9) }}",
    "{{ 'x'.ljust(10**9) }}",
    "{{ '\\t'.expandtabs(10**9) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%*d' % (999999999, 1) }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ '{:>{}}'.format(1, 999999999) }}",
    "{{ '%999999999s' | format('a') }}",
    "{{ 'a' | indent(10**9, true) }}",
    "{{ [1] | tojson(indent=10**9) }}",
    "{{ lipsum(n=10**6) }}",
    "{{ range(10**9) | list }}",
    "{{ [1] | batch(10**9, 'x') | list }}",
    "{{ ('x' * 10**6) | replace('x', 'y' * 10**6) | length }}",
    "{{ ('x' * 10**6).replace('', 'y' * 10**6) | length }}",
    "{{ ([('x' * 10**6)] * 10**4) | join | length }}",
    "{{ ('x' * 10**6).join(['a'] * 10**5) | length }}",
    "{{ ([('x' * 10**6)] * 10**4) }}",
    "{{ ([('x' * 10**6)] * 10**4) ~ '' }}",
    "{{ ([('x' * 10**6)] * 10**4) | string | length }}",
    "{{ ([('x' * 10**6)] * 10**4) | tojson | length }}",
    "{{ 'x'.translate({120: 'y' * 10**6}) }}",
    LOOPS,
    "{% macro m() %}" + LOOPS + "{% endmacro %}{{ m() | length }}",
    "{% set x %}" + LOOPS + "{% endset %}",
    "{% filter upper %}" + LOOPS + "{% endfilter %}",
    "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = ns.l + ['x' * 10**7 ~ i] %}{% endfor %}",
    *(
        DOUBLING.replace("OPERATION", operation)
        for operation in ["ns.x ~ ns.x", "ns.x + ns.x", "'%s%s' % (ns.x, ns.x)"]
    ),
    *(HOARDING.replace("COPY", copy) for copy in ["x[1:]", "x.upper()", "x | upper", "x | list", "x.split('x')"]),
    *(DOUBLING.replace("OPERATION", operation) for operation in ["ns.x | replace('', 'bb')", "[ns.x, ns.x] | join"]),
    DOUBLING.replace("OPERATION", "'{0}{0}'.format(ns.x)"),
    DOUBLING.replace("'aaaaaaaa'", "7").replace("OPERATION", "ns.x * ns.x"),
]


@pytest.mark.parametrize("source", BOMBS)
def test_a_bomb_is_refused_before_it_takes_memory(source):
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError):
            rendered(source)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2**30


def test_a_template_still_works_after_a_refused_render():
    made = template("{{ 'x' * n }}")
    with pytest.raises(TemplateError, match="more than"):
        made.render([USER], n=MAX_OUTPUT_CHARACTERS + 1)
    assert "xx" == made.render([USER], n=2)


def test_a_source_that_is_too_long_or_too_deep_is_refused():
    with pytest.raises(TemplateError, match="longer than"):
        template("x" * (MAX_SOURCE_CHARACTERS + 1))
    with pytest.raises(TemplateError, match=r"compiled|deep"):
        template("{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}")
    with pytest.raises(TemplateError, match=r"compiled|deep"):
        template("{% for i in [1] %}" * 300 + "{% endfor %}" * 300)


def test_a_tool_that_is_not_json_is_named():
    with pytest.raises(TemplateError, match="'broken'"):
        template("x").render([USER], [Tool("broken", "{")])


def test_a_template_may_grow_and_shorten_a_list_but_not_put_it_into_itself():
    queue = "{% set q = namespace(ids=[]) %}{% for m in messages %}{% set _ = q.ids.append(m.content) %}{% endfor %}"
    assert "Hi|[]" == rendered(queue + "{% set x = q.ids.pop(0) %}{{ x }}|{{ q.ids }}")
    with pytest.raises(TemplateError, match="append"):
        rendered("{% set l = [] %}{% set k = [(l, 1)] %}{% set _ = l.append({'a': k}) %}")
    with pytest.raises(TemplateError, match="append"):
        rendered("{% set _ = messages[0].append(1) %}")
    with pytest.raises(TemplateError, match="pop"):
        rendered("{% set _ = messages[0].pop('role') %}")


def test_a_list_that_grows_too_long_is_refused():
    with pytest.raises(TemplateError, match="more than"):
        rendered("{% set l = [0] * 524288 %}{% set _ = l.append(1) %}")


def test_a_template_of_typed_parts_gets_parts():
    part = "{% if p.type == 'text' %}<{{ p.text }}>{% endif %}"
    source = "{% for m in messages %}{% for p in m.content %}" + part + "{% endfor %}{% endfor %}"
    assert "<Hi>" == rendered(source)
    assert "" == rendered(source, Message("user", ""))


def test_two_turns_of_one_side_are_merged_only_where_the_template_refuses_them():
    alternating = """\
{%- for m in messages -%}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif -%}
[{{ m.role }}:{{ m.content }}]
{%- endfor -%}"""
    turns = [USER, Message("user", "there"), Message("assistant", "A"), Message("assistant", ""), Message("user", "x")]
    assert "[user:Hi\n\nthere][assistant:A][user:x]" == rendered(alternating, *turns)
    assert "HithereAx" == rendered("{% for m in messages %}{{ m.content }}{% endfor %}", *turns)


def test_parallel_calls_become_calls_one_after_another_where_a_template_shows_one():
    source = """\
{%- for m in messages -%}
{%- if m.tool_calls %}({{ m.content }}{{ m.tool_calls[0].function.name }}){% else %}[{{ m.content }}]{% endif -%}
{%- endfor -%}"""
    calls = Message("assistant", "T", tool_calls=(ToolCall("1", "f", "{}"), ToolCall("2", "g", "{}")))
    by_place = [Message("tool", "rf"), Message("tool", "rg")]
    assert "[Hi](Tf)[rf](g)[rg]" == rendered(source, USER, calls, *by_place)
    by_id = [Message("tool", "rg", tool_call_id="2"), Message("tool", "rf", tool_call_id="1"), Message("tool", "more")]
    assert "[Hi](Tf)[rf](g)[rg][more][Hi]" == rendered(source, USER, calls, *by_id, USER)


def test_arguments_stay_text_where_a_template_joins_them_to_text():
    call = "{{ c.function.name + c.function.arguments }}"
    source = "{% for m in messages %}{% for c in m.tool_calls or [] %}" + call + "{% endfor %}{% endfor %}"
    turn = Message("assistant", tool_calls=(ToolCall("1", "f", '{"b": 1,  "a": "ü"}'),))
    assert 'f{"b": 1,  "a": "ü"}' == rendered(source, USER, turn)


@pytest.mark.parametrize("content", ["{{ m.content }}", "{{ m.content | trim }}"])
def test_an_answer_is_left_open_to_be_continued(content):
    made = template("{% for m in messages %}<{{ m.role }}>" + content + "</>{% endfor %}<assistant>")
    turns = [USER, Message("assistant", "It is")]
    assert "<user>Hi</><assistant>It is" == made.render(turns, continue_final_message=True)


def test_an_answer_that_is_not_there_or_not_shown_cannot_be_continued():
    with pytest.raises(TemplateError, match="no answer to continue"):
        template("x").render([USER], continue_final_message=True)
    with pytest.raises(TemplateError, match="does not show"):
        template("x").render([USER, Message("assistant", "It is")], continue_final_message=True)
