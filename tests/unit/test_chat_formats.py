"""The format of an answer, found by asking the model's template."""

from __future__ import annotations

from datetime import datetime

import pytest

from localllm.chat.formats import (
    HERMES_CALLS,
    LLAMA_CALLS,
    MISTRAL_CALLS,
    THINK_TAGS,
    CallSyntax,
    OutputFormat,
    ThinkingMarkers,
    detect,
)
from localllm.chat.parser import OutputParser
from localllm.chat.syntax import (
    AnswerMarkers,
    Channels,
    ElementSyntax,
    GemmaSyntax,
    Marker,
    PythonSyntax,
    TaggedSyntax,
    marker,
)
from localllm.chat.template import ChatTemplate
from localllm.generation import ContentDelta, Message, ThinkingDelta, Tool, ToolCall, ToolCallDelta

TOOLS = "{%- for t in tools or [] %}{{ t | tojson }}{% endfor -%}\n"


def turns(call: str, content: str = "{{ m.content }}") -> str:
    """A template that writes a call as `call` says (f is its function) and any other turn as `content` says."""
    return (
        TOOLS
        + "{%- for m in messages %}<|{{ m.role }}|>\n"
        + "{%- if m.tool_calls %}{% for c in m.tool_calls %}{% set f = c.function %}"
        + call
        + "{% endfor %}{% else %}"
        + content
        + "{% endif %}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )


HERMES = turns('<tool_call>\n{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}\n</tool_call>')
LLAMA = turns('{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}')
MISTRAL = turns('[TOOL_CALLS] [{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}, "id": "{{ c.id }}"}]')
LISTED = turns('<calls>[{"number": 1, "args": {{ f.arguments | tojson }}, "tool": "{{ f.name }}"}]</calls>')
AS_TEXT = turns('<tool_call>{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson | tojson }}}</tool_call>')
XML = turns("<tool_call><function={{ f.name }}>{{ f.arguments | tojson }}</function></tool_call>")
UNWRAPPED = turns("<tool_call>{{ f.name }}\n{{ f.arguments | tojson }}</tool_call>")
BARE = turns('[{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}]')
PYTHONIC = turns(
    "[{{ f.name }}({% for k, v in f.arguments.items() %}{{ ', ' if not loop.first }}{{ k }}={{ v | tojson }}"
    "{% endfor %})]"
)
NESTED = turns("<calls>[{{ c | tojson }}]</calls>")
FENCED = turns('```tool_call\n{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}\n```')
OLD_XML = turns(
    "<invoke><name>{{ f.name }}</name><args>"
    "{% for k, v in f.arguments.items() %}<{{ k }}>{{ v }}</{{ k }}>{% endfor %}</args></invoke>"
)
FUNCTION_GEMMA = turns(
    "<start_function_call>call:{{ f.name }}{{ '{' }}"
    "{% for k, v in f.arguments.items() %}{{ ',' if not loop.first }}{{ k }}:"
    "{% if v is string %}<escape>{{ v }}<escape>{% else %}{{ v }}{% endif %}{% endfor %}{{ '}' }}<end_function_call>"
)
NEAR = turns(
    '<think{{ "" }}er>{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}</thinker>', "<thought>"
)


def tagged(lead: str, after_name: str, call_end: str) -> TaggedSyntax:
    return TaggedSyntax(Marker(), marker(lead), marker(after_name), marker(call_end), Marker())


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, today=lambda: datetime(2031, 2, 3))


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        (HERMES, HERMES_CALLS),
        (AS_TEXT, HERMES_CALLS),
        (LLAMA, LLAMA_CALLS),
        (MISTRAL, MISTRAL_CALLS),
        (
            LISTED,
            CallSyntax(
                starts=("<calls>",),
                opening="[",
                separator=",",
                closing="]",
                end="</calls>",
                name_key="tool",
                argument_keys=("args", "arguments", "parameters"),
                other_keys=("type", "id", "number"),
            ),
        ),
        (NEAR, CallSyntax(starts=("<thinker>",), end="</thinker>")),
        (BARE, CallSyntax((), opening="[", separator=",", closing="]", bare=True)),
        (PYTHONIC, PythonSyntax((), bare=True)),
        (FUNCTION_GEMMA, GemmaSyntax("<start_function_call>", "<end_function_call>", "<escape>")),
        (
            NESTED,
            CallSyntax(
                starts=("<calls>",), opening="[", separator=",", closing="]", end="</calls>", inner_key="function"
            ),
        ),
        (FENCED, CallSyntax(starts=("```tool_call",), end="```")),
        (
            OLD_XML,
            ElementSyntax(
                Marker(), marker("<invoke><name>"), marker("</name><args>"), marker("</args></invoke>"), Marker()
            ),
        ),
        (XML, tagged("<tool_call><function=", ">", "</function></tool_call>")),
        (UNWRAPPED, tagged("<tool_call>", "", "</tool_call>")),
        (HERMES.replace(TOOLS, ""), HERMES_CALLS),
        (turns("", "{{ m.content }}"), None),
        ("{{ messages[-1].content }}", None),
        ("{{ raise_exception('never') }}{# tools <tool_call> #}", HERMES_CALLS),
        ("{{ raise_exception('never') }}{# tools [TOOL_CALLS] #}", MISTRAL_CALLS),
        ("{{ raise_exception('never') }}{# tools <|python_tag|> #}", LLAMA_CALLS),
        ("{{ raise_exception('never') }}{# tools [TOOL_CALLS]f[ARGS] #}", None),
        ("{{ raise_exception('never') }}{# tools <tool_call><function=f> #}", None),
        ("{{ raise_exception('never') }}{# <tool_call> #}", None),
    ],
)
def test_the_syntax_of_calls_is_read_off_the_template(source, calls):
    assert calls == detect(template(source)).calls


def test_a_template_that_does_not_tell_of_tools_has_calls_that_are_read_but_not_the_capability():
    found = detect(template(HERMES.replace(TOOLS, "")))
    assert (False, ("completion",)) == (found.shows_tools, found.capabilities)
    assert ("completion", "tools") == detect(template(HERMES)).capabilities


@pytest.mark.parametrize(
    ("content", "thinking"),
    [
        ("<think>\n{{ m.reasoning_content }}\n</think>\n\n{{ m.content }}", THINK_TAGS),
        ("<seed:think>{{ m.thinking }}</seed:think>{{ m.content }}", ThinkingMarkers("<seed:think>", "</seed:think>")),
        ("[THINK]{{ m.reasoning_content }}[/THINK]{{ m.content }}", ThinkingMarkers("[THINK]", "[/THINK]")),
        ("{{ m.content.split('</think>')[-1] }}", THINK_TAGS),
        ("<b>{{ m.reasoning_content }}</b>{{ m.content }}", None),
        ("{{ m.reasoning_content }}{{ m.content }}", None),
        ("{{ m.content }}", None),
    ],
)
def test_the_markers_of_thinking_are_read_off_the_template(content, thinking):
    assert thinking == detect(template(turns("", content))).thinking


@pytest.mark.parametrize(
    ("tags", "source"),
    [
        # A thought that is shown between a pair of tags, whatever they are called.
        (("<scratchpad>", "</scratchpad>"), turns("", "START{{ m.reasoning_content }}END{{ m.content }}")),
        (("<|reflect|>", "<|/reflect|>"), turns("", "START\n{{ m.reasoning_content }}\nEND\n\n{{ m.content }}")),
        (("[MUSING]", "[/MUSING]"), turns("", "START{{ m.reasoning_content }}END{{ m.content }}")),
        # Earlier thinking that is cut off; how many times to cut may be said.
        (("<scratchpad>", "</scratchpad>"), turns("", "{{ m.content.split('END')[-1] }}")),
        (("<|reflect|>", "<|/reflect|>"), turns("", '{{ m.content.split( "END", 1 )[-1] }}')),
        (("[MUSING]", "[/MUSING]"), turns("", "{{ m.content.split('END') | last }}")),
        # A prompt for an answer without thinking has the pair with nothing in it.
        (
            ("<muse>", "</muse>"),
            turns("") + "{% if add_generation_prompt and thinking is false %}START\n\nEND\n{% endif %}",
        ),
    ],
)
def test_tags_of_any_name_are_those_of_thinking_where_a_template_treats_them_so(tags, source):
    for start, end in (("START", tags[0]), ("END", tags[1])):
        source = source.replace(start, end)
    found = detect(template(source))
    assert found.thinking is not None
    assert tags == (found.thinking.start, found.thinking.end)


@pytest.mark.parametrize("end", ["</tool_response>", "</function>", "</answer>", "[/TOOL_RESULTS]"])
def test_tags_of_calls_results_and_answers_are_none_of_thinking(end):
    assert detect(template(turns("", "{{ m.content.split('END')[-1] }}".replace("END", end)))).thinking is None


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("…<|assistant|>\n<think>\n", True), ("<think>", True), ("<think>\n\n</think>\n\n", False), ("", False)],
)
def test_a_prompt_may_end_inside_thinking(prompt, expected):
    assert expected is OutputFormat(thinking=THINK_TAGS).opens_thinking(prompt)
    assert OutputFormat().opens_thinking(prompt) is False


def test_capabilities_and_markers_follow_from_the_format():
    both = OutputFormat(thinking=THINK_TAGS, calls=HERMES_CALLS)
    assert ("completion", "tools", "thinking") == both.capabilities
    assert ("<think>", "</think>", "<tool_call>", "</tool_call>") == both.markers
    assert ("completion",) == OutputFormat().capabilities
    assert () == OutputFormat().markers
    assert ("<|python_tag|>",) == OutputFormat(calls=LLAMA_CALLS).markers


@pytest.mark.parametrize(
    "source", [HERMES, LLAMA, MISTRAL, LISTED, AS_TEXT, NEAR, XML, UNWRAPPED, NESTED, BARE, FENCED]
)
def test_what_a_template_writes_is_parsed_back(source):
    made = template(source)
    call = Message(
        "assistant", tool_calls=(ToolCall("call_abcd1234", "add", '{"b": "Zürich", "a": [1, {"x": null}]}'),)
    )
    tools = [Tool("add", '{"type": "function", "function": {"name": "add"}}')]
    prompt = made.render([Message("user", "Q"), call], tools, add_generation_prompt=False)
    answer = prompt.partition("<|assistant|>")[2].partition("<|end|>")[0]
    parser = OutputParser(detect(made), tools, new_call_id=lambda: "call_x")
    events = parser.feed(answer) + parser.finish()
    arguments = '{"b": "Zürich", "a": [1, {"x": null}]}'
    assert [ToolCallDelta(0, "call_x", "add"), ToolCallDelta(0, arguments=arguments)] == events


def test_written_thinking_is_parsed_back():
    made = template(turns("", "<think>\n{{ m.reasoning_content }}\n</think>\n\n{{ m.content }}"))
    turn = Message("assistant", "Yes.", thinking="Hm.")
    answer = made.render([turn], add_generation_prompt=False).partition("<|assistant|>")[2].partition("<|end|>")[0]
    parser = OutputParser(detect(made), (), new_call_id=lambda: "call_x")
    assert [ThinkingDelta("Hm."), ContentDelta("Yes.")] == parser.feed(answer) + parser.finish()


def one_turn(text: str, call: str, thinking: str = "", *, start: str, end: str) -> str:
    """A template whose assistant's turns stand between `start` and `end`; the prompt ends with the start."""
    return (
        TOOLS
        + "{%- for m in messages %}{% if m.role != 'assistant' %}<|{{ m.role }}|>{{ m.content }}<|end|>{% else %}"
        + (f"{{% if m.reasoning_content %}}{thinking}{{% endif %}}" if thinking else "")
        + "{% if m.content or not m.tool_calls %}"
        + text
        + "{% endif %}{% for c in m.tool_calls or [] %}{% set f = c.function %}"
        + call
        + "{% endfor %}"
        + end
        + "{% endif %}{% endfor %}{% if add_generation_prompt %}"
        + start
        + "{% endif %}"
    )


S = "<|begin|>assistant"
CHANNELS = one_turn(
    f"{S}<|to|>all<|say|>{{{{ m.content }}}}<|stop|>",
    f"{S}<|to|>tool.{{{{ f.name }}}} json<|say|>{{{{ f.arguments | tojson }}}}<|stop|>",
    f"{S}<|to|>mind<|say|>{{{{ m.reasoning_content }}}}<|stop|>",
    start=S,
    end="",
)
MARKED = one_turn(
    "<|text|>{{ m.content }}<|/text|>",
    '<|call|>{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}<|/call|>',
    "<|think|>{{ m.reasoning_content }}<|/think|>",
    start=S,
    end="<|end|>",
).replace("{% else %}", "{% else %}" + S)
ELEMENTS = one_turn(
    S + "{{ m.content }}",
    S
    + '#<calls>#<call name="{{ f.name }}">{% for k, v in f.arguments.items() %}#<{{ k }}>'
    + "{% if v is string %}{{ v }}{% else %}{% for i in v %}#<one>{{ i }}#</one>{% endfor %}{% endif %}#</{{ k }}>"
    + "{% endfor %}#</call>#</calls>",
    start=S,
    end="<|end|>",
)


def test_channels_are_read_off_what_stands_between_the_prompt_and_the_answer():
    found = detect(template(CHANNELS))
    assert found.channels == Channels(
        start=S, header_end="<|say|>", ends=("<|stop|>",), text="all", thinking="mind", recipient="<|to|>tool."
    )
    assert ("completion", "tools", "thinking") == found.capabilities
    assert ThinkingMarkers("<|to|>mind<|say|>", "<|stop|>") == found.thinking
    assert set(found.markers) >= {"<|begin|>", "<|to|>", "<|say|>", "<|stop|>"}


def test_marks_around_the_text_are_read_off_too():
    found = detect(template(MARKED))
    assert AnswerMarkers("<|text|>", ("<|/text|>", "<|end|>")) == found.answer
    assert ThinkingMarkers("<|think|>", "<|/think|>") == found.thinking
    assert CallSyntax(starts=("<|call|>",), end="<|/call|>") == found.calls
    assert "<|text|>" not in found.markers  # nothing is lost where the engine leaves it out
    assert found.opens_text("…<|text|>\n")
    assert not found.opens_text("…")


def test_elements_named_after_arguments_are_read_off_with_their_prefix():
    found = detect(template(ELEMENTS)).calls
    assert isinstance(found, ElementSyntax)
    assert ("#", "one") == (found.prefix, found.item)
    assert ("#<calls>", "#<call") == found.starts


@pytest.mark.parametrize("source", [CHANNELS, MARKED, ELEMENTS], ids=["channels", "marked", "elements"])
def test_what_they_write_is_parsed_back_character_by_character(source):
    made = template(source)
    found = detect(made)
    arguments = '{"text": "a <b> & {c}", "list": ["x", "y"]}'
    reply = Message("assistant", "Zanswer", tool_calls=(ToolCall("call_abcd1234", "add", arguments),))
    question = [Message("user", "Q")]
    prompt = made.render(question, (Tool("add", "{}"),))
    written = made.render([*question, reply], (Tool("add", "{}"),), add_generation_prompt=False)
    assert written.startswith(prompt)
    parser = OutputParser(found, (Tool("add", "{}"),), prompt=prompt, new_call_id=lambda: "call_x")
    text = written.removeprefix(prompt).removesuffix("<|end|>")
    events = [event for letter in text for event in parser.feed(letter)] + parser.finish()
    assert "Zanswer" == "".join(event.text for event in events if isinstance(event, ContentDelta)).replace(S, "")
    calls = [event for event in events if isinstance(event, ToolCallDelta)]
    assert ["add", arguments] == [calls[0].name, calls[1].arguments]


def test_a_prompt_may_say_in_words_that_thinking_follows():
    said = "Here are my reasons:"
    source = (
        "{% for m in messages %}<|{{ m.role }}|>\n{% if m.reasoning_content %}{{ m.reasoning_content }}\n"
        "[BEGIN ANSWER]\n{% endif %}{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n"
        + said
        + "\n{% endif %}"
    )
    made = template(source)
    found = detect(made)
    assert ThinkingMarkers(said, "[BEGIN ANSWER]") == found.thinking
    assert found.opens_thinking(made.render([Message("user", "Q")]))


def test_an_answer_without_thinking_may_begin_with_its_end():
    ended = "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}{% endif %}</think>"
    source = turns("", "{% if m.role == 'assistant' %}" + ended + "{% endif %}{{ m.content }}")
    found = detect(template(source))
    assert ThinkingMarkers("<think>", "</think>", ends_alone=True) == found.thinking
    parser = OutputParser(found, (), new_call_id=lambda: "call_x")
    assert [ContentDelta("Yes </think>")] == [*parser.feed("</think>Yes </think>"), *parser.finish()]
