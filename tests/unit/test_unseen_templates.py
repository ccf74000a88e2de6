"""Small templates of our own, in shapes that known models do not have but others do: each is read back whole."""

from __future__ import annotations

import pytest
from test_unseen_models import opened, read_back

from localllm.chat.formats import OutputFormat, detect
from localllm.chat.syntax import CallSyntax, ThinkingMarkers
from localllm.chat.template import ChatTemplate


def chatml(call: str, *, between: str = "", said: str = "{{- m.content }}") -> str:
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


BLANKS = ["", "\n", "\n\n", "\n    ", " ", "\r\n", "\n\t"]


@pytest.mark.parametrize("before", BLANKS)
@pytest.mark.parametrize("after", BLANKS)
def test_values_between_tags_may_stand_between_any_blanks(before, after):
    call = (
        "<tool_call>\n<function={{ c.name }}>\n{% for k, v in c.arguments.items() %}<parameter={{ k }}>"
        f"{{{{ {before!r} }}}}{{{{ v if v is string else v | tojson }}}}{{{{ {after!r} }}}}</parameter>\n"
        "{% endfor %}</function>\n</tool_call>"
    )
    found = understood(chatml(call, between="\n"))
    assert ("completion", "tools") == found.capabilities


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
