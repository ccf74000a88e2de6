"""The REPL's pure part: lines become commands, commands change the dialogue, the dialogue becomes requests."""

from __future__ import annotations

import pytest

from localllm.cli.dialogue import (
    HELP,
    Change,
    Clear,
    Dialogue,
    Help,
    Leave,
    Load,
    Say,
    Show,
    Wrong,
    changed,
    completions,
    is_complete,
    parse,
)
from localllm.client import ChatRequest, Turn


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("hello", Say("hello")),
        ("what is /bye?", Say("what is /bye?")),
        ('"""two\nlines"""', Say("two\nlines")),
        ('"""\ntwo\nlines\n"""', Say("two\nlines")),
        ("/bye", Leave()),
        ("/exit  ", Leave()),
        ("/?", Help("")),
        ("/help", Help("")),
        ("/? set", Help("set")),
        ("/help /show", Help("show")),
        ("/clear", Clear()),
        ("/load llama3.2:3b", Load("llama3.2:3b")),
        ("/show info", Show("info")),
        ("/show", Help("show")),
        ("/set", Help("set")),
        ("/set think", Change("think", True, "Set 'think' mode.")),
        ("/set think high", Change("think", "high", "Set 'think' mode to 'high'.")),
        ("/set nothink", Change("think", False, "Set 'nothink' mode.")),
        ("/set verbose", Change("verbose", True, "Set 'verbose' mode.")),
        ("/set quiet", Change("verbose", False, "Set 'quiet' mode.")),
        ("/set nowordwrap", Change("word_wrap", False, "Set 'nowordwrap' mode.")),
        ("/set format json", Change("format", "json", "Set format to 'json'.")),
        ("/set noformat", Change("format", None, "Disabled format.")),
        ("/set system be brief", Change("system", "be brief", "Set system message.")),
        ('/set system """be\nbrief"""', Change("system", "be\nbrief", "Set system message.")),
    ],
)
def test_a_line_is_a_command(line, command):
    assert command == parse(line)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("/set parameter temperature 0.5", {"temperature": 0.5}),
        ("/set parameter num_ctx 8192", {"num_ctx": 8192}),
        ("/set parameter seed -1", {"seed": -1}),
        ("/set parameter use_mmap true", {"use_mmap": True}),
        ('/set parameter stop "###" END', {"stop": ["###", "END"]}),
    ],
)
def test_a_parameter_has_the_type_its_option_has(line, value):
    command = parse(line)
    assert isinstance(command, Change)
    assert ("parameters", value) == (command.field, command.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/byebye", "Unknown command '/byebye'. Type /? for help"),
        ("/bye now", "Unknown command '/bye now'. Type /? for help"),
        ("/clearly", "Unknown command '/clearly'. Type /? for help"),
        ("/show infos", "Unknown command '/show infos'. Type /? for help"),
        ("/set verbosely", "Unknown command '/set verbosely'. Type /? for help"),
        ("/? nothing", "No help for 'nothing'. Type /? for help"),
        ("/load", "Usage:\n  /load MODEL"),
        ("/set system", "Usage:\n  /set system TEXT"),
        (
            "/set think hard",
            'invalid value for think: "hard" (must be true, false, high, medium, low, or max)',
        ),
        ("/set format xml", 'invalid value for format: "xml" (must be json, or a JSON schema)'),
        ("/set parameter temperature hot", 'option "temperature" must be of type float32'),
        ("/set parameter top_p 3", 'option "top_p" must be between 0 and 1, not 3.0'),
    ],
)
def test_a_wrong_line_says_what_is_wrong(line, said):
    assert Wrong(said) == parse(line)


def test_an_unknown_parameter_is_refused_with_the_names_there_are():
    command = parse("/set parameter heat 1")
    assert isinstance(command, Wrong)
    assert command.said.startswith("Unknown parameter 'heat'. The parameters are num_keep, ")


def test_changes_add_up_and_reach_the_request():
    dialogue = Dialogue("guide")
    for line in ("/set system be brief", "/set parameter seed 1", "/set parameter top_k 5", "/set nothink"):
        command = parse(line)
        assert isinstance(command, Change)
        dialogue = changed(dialogue, command)
    expected = ChatRequest(
        "guide",
        (Turn("system", "be brief"), Turn("user", "hi")),
        think=False,
        options={"seed": 1, "top_k": 5},
    )
    assert expected == dialogue.request("hi")


def test_an_answer_is_remembered_with_its_thinking():
    dialogue = Dialogue("guide").answered("hi", "hello", "a greeting")
    expected = (Turn("user", "hi"), Turn("assistant", "hello", thinking="a greeting"), Turn("user", "and?"))
    assert expected == dialogue.request("and?").messages


def test_an_answer_that_never_began_leaves_no_question_behind():
    assert Dialogue("guide") == Dialogue("guide").answered("hi", "")


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("hello", True),
        ('"""', False),
        ('"""hello', False),
        ('"""hello\nyou', False),
        ('"""hello\nyou"""', True),
        ('""""""', True),
        ('/set system """be', False),
        ('/set system """be"""', True),
        ('say """ aloud', True),
    ],
)
def test_enter_ends_the_input_unless_quotes_are_open(text, complete):
    assert complete is is_complete(text)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("hello", ()),
        ("/by", ("/bye",)),
        ("/show s", ("/show system",)),
        ("/load g", ("/load guide:latest",)),
        ("/set parameter temp", ("/set parameter temperature ",)),
        ("/set no", ("/set nowordwrap", "/set noformat", "/set nothink")),
    ],
)
def test_tab_completes_commands_and_model_names(text, lines):
    assert lines == completions(text, ("guide:latest", "qwen3:4b"))


def test_every_command_that_the_help_shows_is_one():
    for page in ("set", "show"):
        for row in HELP[page][1:]:
            line = row.split("   ")[0].strip()
            line = line.replace("TEXT", "x").replace("NAME VALUE", "seed 1").replace("[LEVEL]", "low")
            assert not isinstance(parse(line.replace("json|SCHEMA", "json")), Wrong), line
