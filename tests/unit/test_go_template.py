"""Conversations through Go templates of the shapes that Ollama's library uses, and what is read off such a template."""

from __future__ import annotations

import contextlib
import json
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.chat.formats import CallSyntax, ThinkingMarkers, detect
from localllm.chat.go_template import GoTemplate
from localllm.chat.template import ChatTemplate
from localllm.chat.templates import open_template
from localllm.errors import TemplateError
from localllm.generation import Message, Tool, ToolCall
from localllm.store.model import Facts, capabilities_of
from localllm.template_syntax import is_go

CHATML = """\
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
<|im_start|>{{ .Role }}
{{ .Content }}{{ if not $last }}<|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_end|>
<|im_start|>assistant
{{ end }}
{{- end }}"""

LLAMA = """\
{{- if or .System .Tools }}<|start_header_id|>system<|end_header_id|>
{{- if .System }}

{{ .System }}
{{- end }}
{{- if .Tools }}

You may call functions. Answer a call with its result.
{{- end }}<|eot_id|>
{{- end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "user" }}<|start_header_id|>user<|end_header_id|>
{{- if and $.Tools $last }}

These functions can be called, as {"name": NAME, "parameters": OBJECT}:

{{ range $.Tools }}
{{- . }}
{{ end }}
{{- .Content }}<|eot_id|>
{{- else }}

{{ .Content }}<|eot_id|>
{{- end }}{{ if $last }}<|start_header_id|>assistant<|end_header_id|>

{{ end }}
{{- else if eq .Role "assistant" }}<|start_header_id|>assistant<|end_header_id|>
{{- if .ToolCalls }}
{{ range .ToolCalls }}
{"name": "{{ .Function.Name }}", "parameters": {{ .Function.Arguments }}}{{ end }}
{{- else }}

{{ .Content }}
{{- end }}{{ if not $last }}<|eot_id|>{{ end }}
{{- else if eq .Role "tool" }}<|start_header_id|>ipython<|end_header_id|>

{{ .Content }}<|eot_id|>{{ if $last }}<|start_header_id|>assistant<|end_header_id|>

{{ end }}
{{- end }}
{{- end }}"""

MISTRAL = """\
{{- range $index, $_ := .Messages }}
{{- if eq .Role "user" }}
{{- if and (eq (len (slice $.Messages $index)) 1) $.Tools }}[AVAILABLE_TOOLS] {{ $.Tools }}[/AVAILABLE_TOOLS]
{{- end }}[INST] {{ if and $.System (eq (len (slice $.Messages $index)) 1) }}{{ $.System }}

{{ end }}{{ .Content }}[/INST]
{{- else if eq .Role "assistant" }}
{{- if .Content }} {{ .Content }}
{{- else if .ToolCalls }}[TOOL_CALLS] [
{{- range $i, $call := .ToolCalls }}{{ if $i }}, {{ end }}{"name": "{{ .Function.Name }}", "arguments": {{ json .Function.Arguments }}}
{{- end }}]
{{- end }}</s>
{{- else if eq .Role "tool" }}[TOOL_RESULTS] {"content": {{ .Content }}}[/TOOL_RESULTS]
{{- end }}
{{- end }}"""  # noqa: E501

QWEN = """\
{{- $lastUser := -1 }}
{{- range $i, $m := .Messages }}{{ if eq $m.Role "user" }}{{ $lastUser = $i }}{{ end }}{{ end }}
{{- if or .System .Tools }}<|im_start|>system
{{ if .System }}{{ .System }}{{ end }}
{{- if .Tools }}

<tools>
{{- range .Tools }}
{"type": "function", "function": {{ .Function }}}
{{- end }}
</tools>
Write a call as <tool_call>{"name": NAME, "arguments": OBJECT}</tool_call>
{{- end }}<|im_end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}
{{- if and $.IsThinkSet (eq $i $lastUser) }}
{{- if $.Think }} /think{{ else }} /no_think{{ end }}
{{- end }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if (and $.IsThinkSet (and .Thinking (or $last (gt $i $lastUser)))) -}}
<think>{{ .Thinking }}</think>
{{ end -}}
{{ if .Content }}{{ .Content }}
{{- else if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else if eq .Role "tool" }}<|im_start|>user
<tool_response>
{{ .Content }}
</tool_response><|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ if and $.IsThinkSet (not $.Think) -}}
<think>

</think>

{{ end -}}
{{ end }}
{{- end }}"""

ALPACA = """\
{{ if .System }}{{ .System }}

{{ end }}{{ if .Prompt }}### Instruction:
{{ .Prompt }}

{{ end }}### Response:
{{ .Response }}

"""

GEMMA = """\
<start_of_turn>user
{{ if .System }}{{ .System }} {{ end }}{{ .Prompt }}<end_of_turn>
<start_of_turn>model
{{ .Response }}<end_of_turn>
"""

SYSTEM, USER, ANSWER = Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello")
MORE = Message("user", "More?")
ADD = Tool(
    "add",
    json.dumps(
        {
            "type": "function",
            "function": {
                "name": "add",
                "description": "Add < two",
                "parameters": {
                    "type": "object",
                    "required": ["a"],
                    "properties": {"b": {"type": ["number", "null"]}, "a": {"type": "integer", "description": "one"}},
                },
            },
        }
    ),
)
CALL = Message("assistant", tool_calls=(ToolCall("call_12345678", "add", '{"b": 2, "a": 1}'),))
RESULT = Message("tool", "3", tool_name="add", tool_call_id="call_12345678")


def go(source: str) -> GoTemplate:
    template = open_template(source, bos_token="<s>", eos_token="</s>", today=lambda: datetime(2026, 3, 1))
    assert isinstance(template, GoTemplate)
    return template


def test_chatml_ends_where_the_answer_goes():
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nMore?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert expected == go(CHATML).render([SYSTEM, USER, ANSWER, MORE])


def test_an_answer_that_was_begun_goes_on():
    assert go(CHATML).render([USER, ANSWER]).endswith("<|im_start|>assistant\nHello")


def test_consecutive_turns_of_one_role_are_joined_but_not_those_of_tools():
    assert "user\nHi\n\nMore?<|im_end|>" in go(CHATML).render([USER, MORE])
    template = go("{{ range .Messages }}[{{ .Role }} {{ .ToolName }} {{ .ToolCallID }} {{ .Content }}]{{ end }}")
    assert "[tool add call_12345678 3][tool add call_12345678 3]" == template.render([RESULT, RESULT])


def test_llama_shows_its_tools_and_calls():
    text = go(LLAMA).render([SYSTEM, USER, CALL, RESULT, MORE], [ADD])
    assert text.startswith("<|start_header_id|>system<|end_header_id|>\n\nBe brief.\n\nYou may call functions.")
    assert '\n{"name": "add", "parameters": {"b":2,"a":1}}<|eot_id|>' in text
    assert "<|start_header_id|>ipython<|end_header_id|>\n\n3<|eot_id|>" in text
    tool = '{"type":"function","function":{"name":"add","description":"Add \\u003c two"'
    assert tool in text
    assert text.endswith("\nMore?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")
    assert CallSyntax(("<|python_tag|>",), separator=";", bare=True, argument_keys=("parameters", "arguments")) == (
        detect(go(LLAMA)).calls
    )


def test_mistral_writes_its_calls_as_a_list():
    text = go(MISTRAL).render([SYSTEM, USER, CALL, RESULT, MORE], [ADD])
    assert '[INST] Hi[/INST][TOOL_CALLS] [{"name": "add", "arguments": {"b":2,"a":1}}]</s>' in text
    assert '[TOOL_RESULTS] {"content": 3}[/TOOL_RESULTS][AVAILABLE_TOOLS] [{"type":"function"' in text
    assert text.endswith("[INST] Be brief.\n\nMore?[/INST]")
    calls = detect(go(MISTRAL)).calls
    assert calls is not None
    assert (("[TOOL_CALLS]",), "[", ",", "]") == (calls.starts, calls.opening, calls.separator, calls.closing)


def test_qwen_switches_thinking_and_keeps_only_the_newest():
    template = go(QWEN)
    thought = Message("assistant", "Hello", thinking="hm")
    assert template.render([USER]).endswith("user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert template.render([USER], think=True).endswith("Hi /think<|im_end|>\n<|im_start|>assistant\n")
    assert template.render([USER], think=False).endswith(
        "Hi /no_think<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert "hm" not in template.render([USER, thought, MORE], think=True)
    assert template.render([USER, thought], think=True).endswith("<think>hm</think>\nHello")


def test_qwens_format_is_read_off_its_template():
    found = detect(go(QWEN))
    assert ThinkingMarkers("<think>", "</think>") == found.thinking
    assert found.calls is not None
    assert (("<tool_call>",), "</tool_call>") == (found.calls.starts, found.calls.end)
    assert ("completion", "tools", "thinking") == found.capabilities == capabilities_of(Facts(), QWEN)


def test_an_older_template_is_run_once_per_exchange_and_cut_where_the_answer_goes():
    expected = "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello\n\n### Instruction:\nMore?\n\n### Response:\n"
    assert expected == go(ALPACA).render([SYSTEM, USER, ANSWER, MORE])
    assert go(ALPACA).render([USER, ANSWER]).endswith("### Response:\nHello")
    assert go(ALPACA).render([USER, ANSWER], add_generation_prompt=False).endswith("### Response:\nHello\n\n")
    gemma = "<start_of_turn>user\nBe brief. Hi<end_of_turn>\n<start_of_turn>model\n"
    assert gemma == go(GEMMA).render([SYSTEM, USER])


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        ("{{ .Prompt }}", "Hi"),
        ("{{ .System }}|{{ .Prompt }}|", "Be brief.|Hi|"),
        ("[INST] {{ .Prompt }} [/INST]", "[INST] Hi [/INST]"),
        ("{{ if .Prompt }}Q: {{ .Prompt }}\nA: {{ .Response }}!{{ else }}none{{ end }} end", "Q: Hi\nA: "),
        ("{{ .Prompt }}{{ if .Response }} {{ .Response }}</s>{{ end }}", "Hi"),
    ],
)
def test_the_answer_goes_where_response_stands_or_at_the_end(source, prompt):
    assert prompt == go(source).render([SYSTEM, USER])


def test_a_new_system_text_begins_another_exchange():
    template = go("<{{ .System }}|{{ .Prompt }}|{{ .Response }}>")
    assert "<Be brief.|Hi|Hello><Be brief.|More?|" == template.render([SYSTEM, USER, ANSWER, SYSTEM, MORE])


def test_a_result_of_a_tool_is_another_prompt_for_the_older_form():
    template = go("<{{ .Prompt }}|{{ .Response }}>")
    assert "<Hi|><3|" == template.render([USER, CALL, RESULT])


def test_the_properties_of_a_tool_print_as_json():
    template = go("{{ range .Tools }}{{ .Function.Parameters.Properties }}{{ end }}{{ range .Messages }}{{ end }}")
    assert '{"b":{"type":["number","null"]},"a":{"type":"integer","description":"one"}}' == template.render(
        [USER], [ADD]
    )


def test_the_parameters_of_a_tool_can_be_walked_through():
    template = go(
        "{{ range .Tools }}{{ with .Function }}{{ .Name }}: {{ .Parameters.Required }}"
        "{{ range $name, $p := .Parameters.Properties }} {{ $name }} {{ $p.Type }} {{ toTypeScriptType $p }}"
        "{{ if $p.Description }} ({{ $p.Description }}){{ end }};{{ end }}{{ end }}{{ end }}"
        "{{ range .Messages }}{{ end }}"
    )
    expected = "add: [a] a integer number (one); b [number null] number | null;"
    assert expected == template.render([USER], [ADD])


def test_a_tool_without_parameters_and_arguments_that_are_no_json_do_no_harm():
    bare = Tool("now", '{"type": "function", "function": {"name": "now"}}')
    garbled = Message("assistant", tool_calls=(ToolCall("", "now", "{oops"),))
    template = go("{{ .Tools }}{{ range .Messages }}{{ range .ToolCalls }}{{ .Function.Arguments }}{{ end }}{{ end }}")
    assert '[{"type":"function","function":{"name":"now"}}]{oops' == template.render([USER, garbled], [bare])


def test_dates_and_levels_of_thinking_are_there():
    template = go("{{ currentDate }} {{ .ThinkLevel }} {{ .Think }} {{ .IsThinkSet }}{{ range .Messages }}{{ end }}")
    assert "2026-03-01 high true true" == template.render([USER], think="high")
    assert "2026-03-01  false false" == template.render([USER])


@pytest.mark.parametrize(
    "source",
    [CHATML, LLAMA, MISTRAL, QWEN, ALPACA, GEMMA, "{{ .Prompt }}", "{{- if .System }}x{{ end }}", "{{ html .Prompt }}"],
)
def test_go_is_told_from_jinja(source):
    assert is_go(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{{ messages }}",
        "{{ bos_token }}{{ messages[0]['content'] }}",
        "{{- bos_token + messages[0].content -}}",
        "{# .Messages #}{{ messages }}",
        "no actions at all",
        "",
    ],
)
def test_jinja_is_told_from_go(source):
    assert not is_go(source)
    template = open_template(source, bos_token="", eos_token="", today=datetime.now)
    assert isinstance(template, ChatTemplate)


@pytest.mark.parametrize(
    ("template", "capabilities"),
    [
        (CHATML, ("completion",)),
        (LLAMA, ("completion", "tools")),
        (ALPACA, ("completion",)),
        ("{{ .Prompt }}{{ .Suffix }}", ("completion", "insert")),
        ("{{ range .Messages }}{{ .Thinking }}{{ end }}", ("completion", "thinking")),
    ],
)
def test_capabilities_are_read_off_a_go_template(template, capabilities):
    assert capabilities == capabilities_of(Facts(), template)


def test_a_template_that_cannot_be_read_or_run_says_where():
    with pytest.raises(TemplateError, match="line 2 of the chat template: function frobnicate is not supported"):
        go("{{ .Prompt }}\n{{ frobnicate .Prompt }}")
    with pytest.raises(TemplateError, match=r"line 1 of the chat template: there is no field \.Body here"):
        go("{{ range .Messages }}{{ .Body }}{{ end }}").render([USER])
    deep = '{{ define "x" }}' + "{{ if true }}" * 50 + '{{ template "x" . }}' + "{{ end }}" * 50 + "{{ end }}"
    with pytest.raises(TemplateError, match="deep"):
        go(deep + '{{ template "x" . }}').render([USER])


PIECES = st.sampled_from(
    [
        "{{ range .Messages }}", "{{ range $i, $m := .Messages }}", "{{ range .Tools }}", "{{ range .ToolCalls }}",
        "{{ if .Content }}", '{{ if eq .Role "user" }}', "{{ with .Function }}", "{{ else }}", "{{ end }}", "{{ end }}",
        "{{ .Role }}", "{{ .Content }}", "{{ .System }}", "{{ .Prompt }}", "{{ .Response }}", "{{ . }}", "text\n",
        "{{ .Thinking }}", "{{ .Function.Name }}", "{{ .Function.Arguments }}", "{{ json . }}", "{{ len .Messages }}",
        "{{ $last := 1 }}", "{{ .Parameters.Properties }}", "{{ toTypeScriptType . }}", "{{ slice .Messages 1 }}",
        "{{ break }}", "{{- if and $.Think .Thinking -}}", "{{ printf \"%s\" . }}", "{{ index .Messages 0 }}",
    ]
)  # fmt: skip
JSON = st.sampled_from(
    ["{}", '{"a": [1, null]}', "[1]", '"text"', "{", '{"function": 3}', '{"function": {"parameters": []}}']
)
MESSAGES = st.lists(
    st.builds(
        Message,
        st.sampled_from(["system", "user", "assistant", "tool"]),
        st.text(max_size=4),
        thinking=st.none() | st.text(max_size=3),
        tool_calls=st.lists(st.builds(ToolCall, st.text(max_size=2), st.text(max_size=3), JSON), max_size=2).map(tuple),
    ),
    max_size=5,
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(PIECES, max_size=14).map("".join),
    MESSAGES,
    st.lists(st.builds(Tool, st.just("t"), JSON), max_size=2),
    st.sampled_from([None, True, False, "high"]),
    st.booleans(),
)
def test_any_template_over_any_conversation_renders_or_is_refused(source, messages, tools, think, cuts):
    with contextlib.suppress(TemplateError):
        template = GoTemplate(source, today=datetime.now)
        assert isinstance(template.render(messages, tools, think=think, add_generation_prompt=cuts), str)
        detect(template)
