"""What is found in a chat template: of small ones each kind of fault, of all known ones only those that are true."""

from __future__ import annotations

from datetime import datetime

import msgspec
import pytest
from chat_templates import upstream_templates

from localllm.chat.lint import lint
from localllm.creating import Checked

TOOLS = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
CALLS = (
    "{% for c in m.tool_calls or [] %}<tool_call>"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>{% endfor %}'
)
TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}CALLS<|end|>{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
GOOD = TOOLS + TURNS.replace("CALLS", CALLS) + PROMPT
PLAIN = TURNS.replace("CALLS", "") + PROMPT


def found(source: str | None) -> dict[str, tuple[str, str]]:
    return {one.subject: (one.level, one.text) for one in lint(source, today=lambda: datetime(2031, 2, 3))}


def problems(source: str | None) -> dict[str, str]:
    return {subject: text for subject, (level, text) in found(source).items() if level == "problem"}


def test_a_template_that_does_all_has_no_problems():
    assert {} == problems(GOOD)
    levels = found(GOOD)
    form = "JSON objects of name and arguments, behind '<tool_call>'"
    assert ("ok", f"calls are read as {form}") == levels["tools"]
    assert ("ok", "'<|assistant|>'") == levels["generation prompt"]
    assert {"ok"} == {level for subject, (level, _) in levels.items() if subject.startswith("round trip")}


def test_what_a_template_does_without_is_a_note():
    assert {} == problems(PLAIN)
    notes = {subject for subject, (level, _) in found(PLAIN).items() if level == "note"}
    assert {"tools", "thinking"} == notes


SYNTAX = "syntax error in line 1 of the chat template"
SANDBOX = "sandbox: the chat template failed: access to attribute"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, {"template": "there is none: conversations are written as ChatML, or a known form"}),
        ("{% if %}", {"template": f"{SYNTAX}: Expected an expression, got 'end of statement block'"}),
        ("{{ ''.__class__ }}", {"question": f"{SANDBOX} '__class__' of 'str' object is not allowed"}),
        ("{{ raise_exception('never') }}", {"question": "never"}),
        (
            "{{ raise_exception('') }}",
            {"question": "the chat template refuses this conversation, and does not say why"},
        ),
        (
            "{% for m in messages %}{{ m.content }}\n{% endfor %}",
            {"generation prompt": "is missing: nothing says that the answer begins"},
        ),
        (
            PLAIN.replace("{% for m in messages %}", "{% for m in messages if m.role == 'user' %}"),
            {"several turns": "does not show: Zanswer"},
        ),
        (
            PLAIN.replace("m.content", "m.content.split('\\n')[-1]").replace("in messages", "in messages[-1:]"),
            {"system": "the system text does not show in the prompt"},
        ),
        (PLAIN.replace("m.content", "'no'"), {"question": "does not show in the prompt"}),
        (
            GOOD.replace(TOOLS, ""),
            {"tools": "calls are shown, but the model is not told which tools there are"},
        ),
        (
            GOOD.replace('{"name"', 'call: {"name"'),
            {"tools": "are shown, but its calls are in no form that can be read back"},
        ),
        (
            PLAIN.replace("{{ m.content }}", "{{ m.content.strip().foo.bar if not m.content else m.content }}"),
            {"empty content": "the chat template failed: 'str object' has no attribute 'foo'"},
        ),
    ],
)  # fmt: skip
def test_each_fault_is_a_problem_that_says_what_it_is(source, expected):
    got = problems(source)
    assert expected == {subject: got.get(subject) for subject in expected}


def test_a_system_text_that_a_template_leaves_out_is_told_in_the_users_turn():
    source = PLAIN.replace("{{ m.content }}", "{{ m.content if m.role != 'system' }}")
    assert ("note", "has no turn of its own: told in the user's") == found(source)["system"]


def test_tools_that_stand_before_the_last_question_only_do_not_hide_where_an_answer_begins():
    last = "{% if loop.last and m.role == 'user' %}" + TOOLS + "{% endif %}"
    source = TURNS.replace("<|{{ m.role }}|>", last + "<|{{ m.role }}|>").replace("CALLS", CALLS) + PROMPT
    assert {} == problems(source)


def test_a_question_that_stands_otherwise_in_the_history_is_no_part_of_an_answer():
    turn = "{% if m.role == 'user' and loop.last %}[ASK]{{ m.content }}[/ASK]{% else %}<|{{ m.role }}|>{{ m.content }}"
    source = "{% for m in messages %}" + turn + CALLS + "<|end|>{% endif %}{% endfor %}" + TOOLS + PROMPT
    assert {} == problems(source)


def test_a_prompt_that_is_missing_is_written_as_answers_begin():
    expected = ("note", "is missing: '<|assistant|>' is written in its place")
    assert expected == found(GOOD.replace(PROMPT, ""))["generation prompt"]
    assert {} == problems(GOOD.replace(PROMPT, ""))


def test_a_prompt_behind_every_question_is_there_whatever_answers_begin_with():
    asks = "{% if m.role == 'user' %}<|assistant|>{% endif %}"
    answer = "{{ ('<|act|>' if m.tool_calls else '<|say|>') if m.role == 'assistant' }}{{ m.content }}"
    source = f"{{% for m in messages %}}{answer}{asks}{{% endfor %}}"
    assert ("note", "is there whether it is asked for or not") == found(source)["generation prompt"]


def test_blanks_before_a_prompt_that_stand_before_no_answer_do_not_count():
    blank = "{% if add_generation_prompt %}{{ '\\n' }}{% endif %}"
    assert {} == problems(GOOD.replace(PROMPT, blank + PROMPT))


def test_a_refusal_of_something_odd_is_a_note():
    source = PLAIN.replace(
        "{{ m.content }}", "{% if not m.content %}{{ raise_exception('no text') }}{% endif %}{{ m.content }}"
    )
    assert ("note", "refused: no text") == found(source)["empty content"]


@pytest.mark.parametrize(
    "source",
    [
        r"{{ raise_exception('\ud800') }}",
        r"{{ {}['\ud800'].x }}",
        "{{ " + "x" * 1_000_000 + " y }}",
        "{{ '" + "x" * 900_000,
        "{{ raise_exception('\u20ac' * 900000) }}",
        PLAIN.replace("<|assistant|>", r"{{ '\ud800' * 900000 }}"),
        GOOD.replace("<tool_call>", "<{{ 'x' * 200000 }}>"),
        GOOD.replace("{{ m.content }}", "<think>{{ 'x' * 200000 }}{{ m.reasoning_content }}</think>{{ m.content }}"),
    ],
)
def test_what_is_said_of_a_hostile_template_is_short_and_can_be_sent(source):
    said = msgspec.json.encode(Checked(lint(source, today=lambda: datetime(2031, 2, 3))))
    assert 0 < len(said) < 20_000


@pytest.mark.parametrize(
    ("call", "form"),
    [
        ("<call><f={{ f.name }}>{{ f.arguments | tojson }}</f></call>", "names, each with a JSON object of arguments"),
        (
            "<call><f={{ f.name }}>{% for k, v in f.arguments.items() %}<p={{ k }}>{{ v }}</p>{% endfor %}</f></call>",
            "names and arguments between tags",
        ),
        (
            "<call><f={{ f.name }}>{% for k, v in f.arguments.items() %}<{{ k }}>{{ v }}</{{ k }}>{% endfor %}"
            "</f></call>",
            "XML elements, one for each argument",
        ),
        (
            "<call>[{{ f.name }}({% for k, v in f.arguments.items() %}{{ ',' if not loop.first }}{{ k }}="
            "{{ v | tojson }}{% endfor %})]</call>",
            "a list of calls as Python writes them",
        ),
        ('<call>{"{{ f.name }}": {{ f.arguments | tojson }}}</call>', "JSON objects under their names"),
    ],
)
def test_the_form_of_calls_is_told_in_words(call, form):
    calls = "{% for c in m.tool_calls or [] %}{% set f = c.function %}" + call + "{% endfor %}"
    assert ("ok", f"calls are read as {form}, behind '<call>'") == found(
        TOOLS + TURNS.replace("CALLS", calls) + PROMPT
    )["tools"]


def test_a_template_in_gos_language_is_checked_too():
    source = "{{ range .Messages }}<|{{ .Role }}|>{{ .Content }}<|end|>{{ end }}<|assistant|>"
    assert {} == problems(source)
    assert "note" == found(source)["generation prompt"][0]


NOT_TOLD = "calls are shown, but the model is not told which tools there are"
KNOWN_PROBLEMS = {
    "NVIDIA-Nemotron-Nano-v2": {"round trip: text and a call", "round trip: an answer", "round trip: thinking"},
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": {"tools"},
    "deepseek-ai-DeepSeek-V3.1": {"tools"},
}


def test_of_known_templates_only_these_have_problems():
    sources = upstream_templates()
    chosen = {*sorted(sources)[::8], *KNOWN_PROBLEMS}
    found_problems = {name: problems(sources[name]) for name in chosen}
    assert KNOWN_PROBLEMS == {name: set(found) for name, found in found_problems.items() if found}
    assert NOT_TOLD == found_problems["deepseek-ai-DeepSeek-V3.1"]["tools"]
