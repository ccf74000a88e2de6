"""Small templates of our own, in shapes that known models do not have but others do: each is read back whole."""

from __future__ import annotations

import pytest
import test_format_conformance as conformance
from random_answers import Talk
from test_call_grammars import asked, assert_calls, marks_of
from test_unseen_models import check_answers, opened, read_back

from localllm.chat.formats import HERMES_CALLS, OutputFormat, detect
from localllm.chat.syntax import AnswerMarkers, CallSyntax, PythonSyntax, ThinkingMarkers
from localllm.chat.template import ChatTemplate
from localllm.generation import Message, ToolChoice
from localllm.store.model import Facts, capabilities_of


def chatml(call: str, *, between: str = "", said: str = "{{ m.content }}") -> str:
    """A template of turns between <|im_start|> and <|im_end|>; `call` writes one call `c`, `said` all before calls."""
    return (
        "{%- if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
        "{%- for m in messages %}<|im_start|>{{ m.role }}\n"
        + said
        + "{% for t in m.tool_calls or [] %}{% set c = t.function %}"
        + f"{{% if not loop.first %}}{between}{{% endif %}}"
        + f"{call}{{% endfor %}}<|im_end|>\n{{% endfor %}}"
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def understood(source: str, **more: str) -> OutputFormat:
    """What is found of a template, all of whose answers were read back, at once and letter by letter."""
    template: ChatTemplate = opened(source)
    found = detect(template)
    good = read_back("", template, found)
    assert good
    assert dict.fromkeys(good, True) == good
    return found


def assert_demanded_calls_parse(source: str) -> None:
    """Whatever a model would like to say, a call that it must make is one, and follows its schema."""
    talk = Talk(source, marks_of(source))
    complete = 0
    for seed in range(4):
        said, again = talk.answers(asked(tool_choice=ToolChoice("required")), seed)
        assert said.calls == again.calls
        if said.reason != "length":
            assert_calls(said)
            complete += 1
    assert complete >= 2


def tagged(before: str, after: str) -> str:
    """A call of values between tags, with blanks around each."""
    return (
        "<tool_call>\n<function={{ c.name }}>\n{% for k, v in c.arguments.items() %}<parameter={{ k }}>"
        f"{{{{ {before!r} }}}}{{{{ v if v is string else v | tojson }}}}{{{{ {after!r} }}}}</parameter>\n"
        "{% endfor %}</function>\n</tool_call>"
    )


BLANKS = ["", "\n", "\n\n", "\n    ", " ", "\r\n", "\n\t"]


@pytest.mark.parametrize("before", BLANKS)
@pytest.mark.parametrize("after", BLANKS)
def test_values_between_tags_may_stand_between_any_blanks(before, after):
    found = understood(chatml(tagged(before, after), between="\n"))
    assert ("completion", "tools") == found.capabilities


@pytest.mark.parametrize(("before", "after"), [("", ""), ("\n\n", "\n    "), ("", "\n"), (" ", "")])
def test_demanded_calls_have_the_blanks_around_values_that_their_template_writes(before, after):
    assert_demanded_calls_parse(chatml(tagged(before, after), between="\n"))


QUOTED = r"""'{{ v | replace('\\', '\\\\') | replace("'", "\\'") }}'"""
VALUE = f"{{% if v is string %}}{QUOTED}{{% else %}}{{{{ 'null' if v is none else v | tojson }}}}{{% endif %}}"


def python_call(value: str) -> str:
    """A call as Python writes it, whose values are written so."""
    members = f"{{% for k, v in c.arguments.items() %}}{{{{ k }}}}={value}{{{{ ', ' if not loop.last }}}}{{% endfor %}}"
    return f"{{{{ c.name }}}}({members})"


@pytest.mark.parametrize("fence", ["", "```python"])
def test_calls_of_python_on_lines_of_their_own_are_read_and_can_be_demanded(fence):
    opening, closing = (f"<calls>\n{fence}\n", "\n```\n</calls>") if fence else ("<calls>\n", "\n</calls>")
    call = f"{{{{ {opening!r} if loop.first }}}}{python_call(VALUE)}{{{{ {closing!r} if loop.last }}}}"
    source = chatml(call, between="\n")
    found = understood(source)
    assert PythonSyntax(("<calls>",), "</calls>", on_lines=True, fence=fence) == found.calls
    assert_demanded_calls_parse(source)


@pytest.mark.parametrize(("opening", "closing"), [("", ""), ("[", "]")])
def test_python_calls_in_a_block_for_tools_are_read(opening, closing):
    call = (
        f"{{{{ '```tool_code\n{opening}' if loop.first }}}}{python_call(VALUE)}{{{{ '{closing}\n```' if loop.last }}}}"
    )
    source = chatml(call, between=", " if opening else "\n")
    found = understood(source)
    assert PythonSyntax(("```tool_code",), "```", on_lines=not opening) == found.calls
    assert_demanded_calls_parse(source)
    code = "```python\nf(x=1)\n```\nThat is ```tool_code```."
    assert [("thinking", ""), ("content", code)] == read(found, code)
    assert detect(opened(source.replace("tool_code", "python"))).calls is None


def test_objects_in_a_block_without_a_name_are_calls_and_other_blocks_are_not():
    object_ = '{"name": "{{ c.name }}", "arguments": {{ c.arguments | tojson }}}'
    call = "{{ '```\n[' if loop.first }}" + object_ + "{{ ']\n```' if loop.last }}"
    found = understood(chatml(call, between=", "))
    for code in ('```\n[{"a": 1}]\n```', "```\nx\n```", "```json\n[1]\n```", "``` and ```"):
        assert [("thinking", ""), ("content", code)] == read(found, code)


@pytest.mark.parametrize(("opening", "closing"), ["[]", ("", "")])
def test_python_calls_are_known_although_their_template_writes_texts_without_quotes(opening, closing):
    said = "{% if not m.tool_calls %}{{ m.content }}{% endif %}"
    call = f"{{{{ '{opening}' if loop.first }}}}{python_call('{{ v }}')}{{{{ '{closing}' if loop.last }}}}"
    source = chatml(call, between=", ", said=said)
    assert PythonSyntax((), bare=True) == detect(opened(source)).calls
    assert_demanded_calls_parse(source)


def test_a_prompt_that_does_not_go_on_from_what_stands_there_without_it_begins_messages_with_whole_tags():
    found = understood(
        "{%- for m in messages %}"
        "{% if m.role == 'assistant' %}"
        "{% if m.thinking %}<|start|>assistant to=self<|message|>{{ m.thinking }}<|eom|>{% endif %}"
        "{% for t in m.tool_calls or [] %}<|start|>assistant to={{ t.function.name }}<|message|>"
        "{{ t.function.arguments | tojson }}{{ '<|eot|>' if loop.last else '<|eom|>' }}{% endfor %}"
        "{% if not m.tool_calls %}<|start|>assistant to=user<|message|>{{ m.content }}<|eot|>{% endif %}"
        "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|eot|>{% endif %}{%- endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% else %}{{ '\n' }}{% endif %}"
    )
    assert found.channels is not None
    assert "<|start|>assistant" == found.channels.start
    assert ("<|eom|>", "<|eot|>") == found.channels.ends


def test_a_call_whose_name_stands_in_its_id_is_read():
    found = understood(chatml("<|call|>{{ t.id }}<|arguments|>{{ c.arguments | tojson }}<|call_end|>"))
    assert ("completion", "tools") == found.capabilities
    assert found.parallel_calls


@pytest.mark.parametrize("mark", [",", ";"])
def test_objects_without_a_tag_are_divided_by_what_stands_between_two(mark):
    said = "{% if not m.tool_calls %}{{ m.content }}{% endif %}"
    call = "{{ {'name': c.name, 'arguments': c.arguments} | tojson }}"
    found = understood(chatml(call, between=mark, said=said))
    assert isinstance(found.calls, CallSyntax)
    assert mark == found.calls.separator


def test_blanks_that_stand_before_calls_and_not_before_answers_are_no_part_of_a_call():
    said = "{% if not m.tool_calls %}{{ m.content }}{% endif %}"
    source = chatml("{{ {'name': c.name, 'parameters': c.arguments} | tojson }}", between=";", said=said)
    found = understood(source.replace("<|im_start|>{{", "{{ '\n' if m.tool_calls }}<|im_start|>{{"))
    assert ("completion", "tools") == found.capabilities


def test_thinking_that_is_only_stripped_from_earlier_answers_is_known_by_its_end():
    strip = "{% for part in m.content.split('<channel|>') %}{{ part.split('<|channel>')[0] }}{% endfor %}"
    found = understood(chatml("<tool_call>{{ c | tojson }}</tool_call>", said=strip))
    assert ThinkingMarkers("<|channel>thought", "<channel|>") == found.thinking


HERMES = "<tool_call>{{ c | tojson }}</tool_call>"
THOUGHT = (
    "{% if m.reasoning_content is defined %}<think>\n{{ m.reasoning_content }}\n</think>\n{% endif %}{{ m.content }}"
)


def never_asking(source: str) -> str:
    return "{% set add_generation_prompt = false %}" + source


@pytest.mark.parametrize("said", ["{{ m.content }}", THOUGHT])
def test_a_template_that_never_asks_for_an_answer_is_helped_to_its_own_opening(said):
    source = chatml(HERMES, said=said)
    found = understood(never_asking(source))
    assert detect(opened(source)) == found
    question = [Message("user", "Hi")]
    assert opened(source).render(question) == opened(never_asking(source)).render(question)


def test_an_opening_is_whole_and_no_beginning_of_what_differs():
    for written, opening in {
        "<|start|>assistant to={{ 'user' if m.content else 'self' }}<|body|>{{ m.content }}": "<|start|>assistant",
        "{{ 'A' if m.content else 'B' }}SSISTANT: {{ m.content }}": "",
        "ASSISTANT: {{ m.content }}": "ASSISTANT:",
        "<|bot|><think>{{ m.thinking }}</think>{{ m.content }}": "<|bot|>",
        "<|bot|>\n{{ m.content or '\n' }}": "<|bot|>\n",
        "{{ m.content }}": "",
    }.items():
        source = "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }}\n{% else %}" + (
            written + "<|end|>\n{% endif %}{% endfor %}"
        )
        assert opening == opened(source).missing_prompt


def test_an_opening_is_written_where_an_answer_is_asked_for():
    source = never_asking(chatml(HERMES))
    talk = [Message("user", "Hi"), Message("assistant", "Ho")]
    assert opened(source).render(talk).endswith("Ho<|im_end|>\n<|im_start|>assistant\n")
    assert opened(source).render(talk, continue_final_message=True).endswith("Ho")
    assert opened(source).render(talk[:1], add_generation_prompt=False).endswith("Hi<|im_end|>\n")


@pytest.mark.parametrize(
    "source",
    [
        chatml(tagged("\n\n", "\n  "), between="\n"),
        chatml(f"<calls>\n{python_call(VALUE)}\n</calls>", between="\n"),
        chatml(f"<calls>\n```python\n{python_call(VALUE)}\n```\n</calls>"),
        chatml(HERMES, said="{% if tools and not m.tool_calls %}Reply: {% endif %}{{ m.content }}"),
        chatml("<|call|>{{ t.id }}<|arguments|>{{ c.arguments | tojson }}<|call_end|>"),
        chatml(f"```tool_code\n[{python_call(VALUE)}]\n```"),
        chatml("```\n[{{ {'name': c.name, 'arguments': c.arguments} | tojson }}]\n```"),
    ],
    ids=["blanks", "lines", "fence", "announced", "ids", "block of Python", "block of objects"],
)
def test_any_answer_in_these_shapes_says_the_same_however_it_is_cut(source):
    check_answers(opened(source), source, 60)


def test_thinking_that_is_only_asked_for_in_words_stands_between_the_usual_tags():
    asked = "{% if enable_thinking %}Think hard.\n{% endif %}"
    assert ThinkingMarkers("<think>", "</think>") == detect(opened(asked + chatml(HERMES))).thinking
    assert detect(opened("Think hard.\n" + chatml(HERMES))).thinking is None


def test_thinking_and_answer_may_be_announced_in_words():
    told = "{% if thinking %}Begin with 'Here is my thought process:'.\n{% endif %}"
    found = detect(opened(told + chatml(HERMES)))
    text = "Here is my thought process: two and two.\n\nHere is my response: 4"
    assert [("thinking", "two and two."), ("content", "4")] == read(found, text)
    assert [("thinking", ""), ("content", "Here is 4.")] == read(found, "Here is 4.")


SYSTEM_TOOLS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% if m.role == 'system' and 'tools' in m %}{{ '<|tool|>' + m.tools + '<|/tool|>' }}{% endif %}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_tools_may_be_wanted_as_a_text_in_the_system_turn_and_calls_be_known_by_their_mark():
    template = opened(SYSTEM_TOOLS)
    system, question = Message("system", "Be brief."), Message("user", "Hi")
    shown = template.render([system, question], conformance.TOOLS)
    head = '<|system|>Be brief.<|tool|>[{"name": "do_it", "description": "Does do_it.", "parameters": {'
    assert shown.startswith(head)
    assert template.render([question], conformance.TOOLS).startswith(head.replace("Be brief.", ""))
    found = detect(template)
    assert ("completion", "tools") == found.capabilities
    call = '[{"name": "do_it", "arguments": {"text": "a"}}, {"name": "do_more", "arguments": {"count": 1}}]'
    expected = [("thinking", ""), ("content", ""), ("do_it", '{"text": "a"}'), ("do_more", '{"count": 1}')]
    assert expected == read(found, f"<|tool_call|>{call}<|/tool_call|>")


def test_a_brace_that_a_template_forgets_does_not_hide_a_known_form():
    call = '<tool_call>{"name": "{{ c.name }}", "arguments": {{ c.arguments | tojson }}</tool_call>'
    assert HERMES_CALLS == detect(opened(chatml(call))).calls
    assert detect(opened(chatml(call.replace('{"name": ', "calls ")))).calls != HERMES_CALLS


def test_calls_that_neither_a_template_nor_its_source_shows_are_known_by_its_turns():
    turns = "{% for m in messages %}<extra_id_1>{{ m.role }}\n{{ m.content }}\n{% endfor %}<extra_id_1>assistant\n"
    found = detect(opened("{% for t in tools or [] %}<tool> {{ t | tojson }} </tool>{% endfor %}" + turns))
    text = '<toolcall> {"name": "do_it", "arguments": {"text": "a"}} </toolcall>'
    assert [("thinking", ""), ("content", ""), ("do_it", '{"text": "a"}')] == read(found, text)


def test_what_a_templates_comments_speak_of_is_no_capability():
    assert ("completion",) == capabilities_of(Facts(), "{#- no tools,\nno enable_thinking -#}{{ messages }}")
    assert ("completion", "thinking") == capabilities_of(Facts(), "{# #}{{ enable_thinking }}{# #}")


def test_a_text_that_stands_within_the_tags_before_calls_is_text():
    said = "{% if m.tool_calls %}<|code|>{{ m.content }}<|/code|>{% else %}{{ m.content }}{% endif %}"
    found = understood(chatml("{{ {'name': c.name, 'arguments': c.arguments} | tojson }}", said=said))
    assert AnswerMarkers("<|code|>", ()) == found.answer


def read(found: OutputFormat, text: str) -> list[tuple[str, ...]]:
    """Thinking, text and calls of an answer, the same however it is cut."""
    said = [conformance.parsed(found, cut, "", False, False, early=False) for cut in ([text], list(text))]
    assert said[0] == said[1]
    return said[0]


def test_a_text_that_is_cut_out_of_earlier_answers_stands_between_these_tags():
    said = (
        "{% if '<answer>' in m.content %}{{ m.content.split('<answer>')[-1].split('</answer>')[0] }}"
        "{% else %}{{ m.content.split('</think>')[-1] }}{% endif %}"
    )
    found = detect(opened(chatml(HERMES, said=said)))
    told = "<think>\nSo <b>.\n</think>\n<answer>\nIt is </b>.\n</answer>"
    assert [("thinking", "So <b>."), ("content", "It is </b>.")] == read(found, told)
    assert [("thinking", ""), ("content", "It is <answer>.")] == read(found, "It is <answer>.")


def test_a_word_before_every_answer_but_no_call_is_no_text():
    said = "{% if tools and not m.tool_calls and m.role == 'assistant' %}Reply: {% endif %}{{ m.content }}"
    found = understood(chatml(HERMES, said=said))
    assert [("thinking", ""), ("content", "Fine. Reply: no")] == read(found, "Reply: Fine. Reply: no")
