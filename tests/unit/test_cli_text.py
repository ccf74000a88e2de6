"""The CLI's pure text: figures, tables, word wrap, arguments, statistics, the sheet of `show`."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta

import pytest

from localllm.cli import figures
from localllm.cli.answer import AnswerWriter, statistics_lines
from localllm.cli.arguments import (
    AnswerStyle,
    parse_format,
    parse_keep_alive_argument,
    parse_think,
)
from localllm.cli.commands import COMMANDS, find_command, overview, unknown_word_text
from localllm.cli.models import list_table
from localllm.cli.output import Screen, aligned_lines, error_text
from localllm.cli.run import is_path, prepare_arguments, prompt_text
from localllm.cli.running import memory_rows, ps_table
from localllm.cli.sheet import sheet_lines
from localllm.cli.wordwrap import WordWrapper
from localllm.client import Metrics, ModelSummary, RunningModel
from localllm.client_models import Details, ModelInfo, TensorSummary
from localllm.client_plans import DeviceShare, MeasuredShare, Placement
from localllm.errors import LocalllmError
from localllm.sizes import size_text

NOW = datetime(2026, 8, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (4_000_000, "4 MB"), (4_683_087_332, "4.7 GB"), (42_520_000_000, "43 GB")],
)
def test_sizes_are_decimal(size_bytes, text):
    assert text == size_text(size_bytes)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5, "less than a minute ago"),
        (60, "1 minute ago"),
        (7300, "2 hours ago"),
        (86_400 * 8, "1 week ago"),
        (86_400 * 800, "2 years ago"),
    ],
)
def test_ages_use_the_largest_unit(seconds, text):
    assert text == figures.age_text(NOW - timedelta(seconds=seconds), NOW)


@pytest.mark.parametrize(
    ("expires_at", "state", "text"),
    [
        (NOW + timedelta(minutes=4, seconds=30), "ready", "4 minutes from now"),
        (None, None, "Forever"),
        (datetime(2318, 11, 1, tzinfo=UTC), None, "Forever"),
        (NOW - timedelta(seconds=1), None, "Stopping..."),
        (NOW + timedelta(minutes=4), "loading", "Loading..."),
        (None, "stopping", "Stopping..."),
    ],
)
def test_until_says_when_a_model_goes(expires_at, state, text):
    assert text == figures.until_text(expires_at, NOW, state)


@pytest.mark.parametrize(
    ("size", "gpu", "text"),
    [(0, 0, "-"), (100, 0, "100% CPU"), (100, 100, "100% GPU"), (100, 76, "24%/76% CPU/GPU")],
)
def test_the_processor_column_says_where_the_bytes_lie(size, gpu, text):
    assert text == figures.processor_text(size, gpu)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (12, "12ns"),
        (850_000, "850µs"),
        (12_340_000, "12.34ms"),
        (1_234_567_890, "1.235s"),
        (61_500_000_000, "1m1.5s"),
        (3_723_000_000_000, "1h2m3.0s"),
    ],
)
def test_durations_are_short(nanoseconds, text):
    assert text == figures.nanoseconds_text(nanoseconds)


def test_statistics_come_in_ollamas_order_without_what_is_zero():
    metrics = Metrics(
        total_duration=2_000_000_000,
        prompt_eval_count=10,
        prompt_eval_duration=500_000_000,
        eval_count=30,
        eval_duration=1_500_000_000,
    )
    assert [
        "total duration:       2s",
        "prompt eval count:    10 token(s)",
        "prompt eval duration: 500ms",
        "prompt eval rate:     20.00 tokens/s",
        "eval count:           30 token(s)",
        "eval duration:        1.5s",
        "eval rate:            20.00 tokens/s",
    ] == statistics_lines(metrics)


def test_columns_are_aligned_and_lines_end_without_spaces():
    assert ["NAME     ID", "guide    ab", "x"] == aligned_lines([("NAME", "ID"), ("guide", "ab"), ("x", "")])


def test_list_and_ps_have_ollamas_columns():
    model = ModelSummary("guide:latest", 4_000_000, "abcdef0123456789", NOW - timedelta(hours=2))
    assert (
        ("NAME", "ID", "SIZE", "MODIFIED"),
        [("guide:latest", "abcdef012345", "4 MB", "2 hours ago")],
    ) == list_table([model], NOW)
    running = RunningModel("guide:latest", 9_000_000, 0, "abcdef0123456789", context_length=4096)
    assert (
        ("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"),
        [("guide:latest", "abcdef012345", "9 MB", "100% CPU", "4096", "Forever")],
    ) == ps_table([running], NOW)


def test_ps_says_why_a_model_is_not_on_a_gpu_and_what_was_planned_and_taken():
    share = DeviceShare(
        "CPU", 33, 4_000_000, 2_000_000, 1_000_000, 0, 7_000_000, 9_000_000,
        MeasuredShare(4_000_000, 2_000_000, 500_000, 8_000_000),
    )  # fmt: skip
    placement = Placement("cpu", fallback="CUDA0 is full", devices=(share,))
    running = RunningModel("guide:latest", 9_000_000, 0, "abcdef0123456789", placement=placement)
    assert "100% CPU: CUDA0 is full" == ps_table([running], NOW)[1][0][3]
    assert [
        ("guide:latest", "CPU", "33", "4 MB / 4 MB", "2 MB / 2 MB", "1 MB / 500 KB", "7 MB / 8 MB", "9 MB")
    ] == memory_rows([running])


def test_ps_shows_the_queue_when_the_daemon_tells_it():
    headers, rows = ps_table([RunningModel("a:latest", active=2, waiting=3)], NOW)
    assert (("ACTIVE", "WAITING"), ("2", "3")) == (headers[-2:], rows[0][-2:])


INFO = ModelInfo(
    license="MIT License\n\nCopyright\nAnd more",
    parameters='temperature                    0\nstop                           "###"',
    system="You are the guide.",
    details=Details(family="llama", parameter_size="5.6M", quantization_level="Q4_K_M"),
    model_info={"general.architecture": "llama", "llama.context_length": 2048, "llama.embedding_length": 256},
    tensors=(TensorSummary("output.weight", "Q6_K", (256, 4096)),),
    capabilities=("completion", "tools"),
)


def test_the_sheet_has_sections_and_shortens_texts():
    assert [
        "  Model",
        "    architecture        llama",
        "    parameters          5.6M",
        "    context length      2048",
        "    embedding length    256",
        "    quantization        Q4_K_M",
        "",
        "  Capabilities",
        "    completion",
        "    tools",
        "",
        "  Parameters",
        "    temperature    0",
        '    stop           "###"',
        "",
        "  System",
        "    You are the guide.",
        "",
        "  License",
        "    MIT License",
        "    Copyright",
        "    ...",
    ] == sheet_lines(INFO)


def test_the_verbose_sheet_adds_metadata_and_tensors():
    lines = sheet_lines(INFO, verbose=True)
    assert "    llama.context_length      2048" in lines
    assert "    output.weight    Q6_K    [256 4096]" in lines


@pytest.mark.parametrize(
    ("columns", "pieces", "shown"),
    [
        (10, ["one two three four"], "one two \nthree four"),
        (10, ["one two th", "ree four"], "one two \nthree four"),
        (5, ["abcdefgh"], "abcde\nfgh"),
        (5, ["a\nbcdef"], "a\nbcdef"),
        (4, ["日本語"], "日本\n語"),
    ],
)
def test_words_that_do_not_fit_start_the_next_line(columns, pieces, shown):
    wrapper = WordWrapper(columns)
    assert shown == _on_a_terminal("".join(wrapper.feed(piece) for piece in pieces))


def _on_a_terminal(written: str) -> str:
    while match := re.search(r"\x1b\[(\d+)D\x1b\[K", written):
        written = written[: match.start() - int(match[1])] + written[match.end() :]
    return written


def screen(is_terminal: bool, color: bool = False) -> Screen:
    return Screen(io.StringIO(), io.StringIO(), is_terminal, is_terminal, color, True, 80)


def shown(target: Screen) -> tuple[str, str]:
    return target.stdout.getvalue(), target.stderr.getvalue()


def test_a_cell_with_a_line_break_stays_one_row():
    target = screen(is_terminal=False)
    target.table(("NAME", "FILE"), [("a", "x\ny.gguf")])
    assert ("NAME    FILE\na       x y.gguf\n", "") == shown(target)


def test_in_a_pipe_stdout_holds_the_answer_alone_and_thinking_goes_to_stderr():
    target = screen(is_terminal=False)
    writer = AnswerWriter(target, AnswerStyle())
    for content, thinking in (("", "hm"), ("4", None), ("2", None)):
        writer.write(content, thinking)
    writer.finish()
    assert ("42\n", "Thinking...\nhm\n...done thinking.\n\n") == shown(target)
    assert ("42", "hm") == (writer.content, writer.thinking)


def test_on_a_terminal_thinking_is_dim_between_its_markers():
    target = screen(is_terminal=True, color=True)
    writer = AnswerWriter(target, AnswerStyle())
    writer.write("", "hm")
    writer.write("42", None)
    writer.finish()
    expected = "\x1b[2mThinking...\n\x1b[0m\x1b[2mhm\x1b[0m\x1b[2m\n...done thinking.\n\n\x1b[0m42\n"
    assert (expected, "") == shown(target)


def test_without_colour_a_terminal_gets_no_escape_sequence():
    target = screen(is_terminal=True, color=False)
    writer = AnswerWriter(target, AnswerStyle())
    writer.write("", "hm")
    writer.write("42", None)
    writer.finish()
    assert ("Thinking...\nhm\n...done thinking.\n\n42\n", "") == shown(target)


def test_hidden_thinking_is_not_shown_but_kept():
    target = screen(is_terminal=False)
    writer = AnswerWriter(target, AnswerStyle(hides_thinking=True))
    writer.write("", "hm")
    writer.write("42\n", None)
    writer.finish()
    assert (("42\n", ""), "hm") == (shown(target), writer.thinking)


def test_a_model_cannot_steer_the_terminal():
    target = screen(is_terminal=True, color=True)
    writer = AnswerWriter(target, AnswerStyle(wraps_words=False))
    writer.write("\x1b]0;title\x07a\tb\r\n\x9bc", None)
    assert ("]0;titlea\tb\nc", "") == shown(target)


def test_errors_end_with_their_hint_after_an_empty_line():
    assert "Error: no\n\nhint: yes" == error_text(LocalllmError("no", hint="yes"))
    assert "Error: no" == error_text(LocalllmError("no"))


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("low", "low"), ("max", "max")])
def test_think_values(text, value):
    assert value == parse_think(text)


@pytest.mark.parametrize(("text", "value"), [("json", "json"), ('{"type":"object"}', {"type": "object"})])
def test_format_values(text, value):
    assert value == parse_format(text)


@pytest.mark.parametrize(("text", "value"), [("300", 300.0), ("-1", -1.0), ("5m", "5m"), ("1h30m", "1h30m")])
def test_keep_alive_values(text, value):
    assert value == parse_keep_alive_argument(text)


@pytest.mark.parametrize(
    ("parse", "text"),
    [(parse_think, "yes"), (parse_format, "[]"), (parse_format, "xml"), (parse_keep_alive_argument, "soon")],
)
def test_bad_values_are_refused(parse, text):
    with pytest.raises(ValueError):
        parse(text)


@pytest.mark.parametrize(
    ("arguments", "prepared"),
    [
        (["m", "--think", "hi"], ["m", "--think=true", "hi"]),
        (["m", "--think=low", "hi"], ["m", "--think=low", "hi"]),
        (["m", "--", "--think"], ["m", "--", "--think"]),
    ],
)
def test_a_bare_think_takes_no_word_of_the_prompt(arguments, prepared):
    assert prepared == prepare_arguments(arguments)


class Piped(io.TextIOWrapper):
    """A stdin that is a pipe, with this in it."""

    def __init__(self, text: str) -> None:
        super().__init__(io.BytesIO(text.encode()))


class Typed(Piped):
    """A stdin that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("words", "stdin", "prompt"),
    [
        (["hello", "you"], Typed(""), "hello you"),
        ([""], Typed(""), ""),
        (None, Typed(""), None),
        (["explain"], Piped("code\n"), "code\n explain"),
        (None, Piped("code"), "code"),
        (["explain"], Piped(""), "explain"),
        (None, Piped(""), ""),
    ],
)
def test_piped_text_comes_before_the_words(words, stdin, prompt):
    assert prompt == prompt_text(words, stdin)


def test_paths_are_told_from_names(tmp_path, monkeypatch):
    (tmp_path / "x.gguf").touch()
    monkeypatch.chdir(tmp_path)
    words = ("./x", "/x", "../x", "~/x.gguf", "x.gguf", "y.gguf", "hf.co/a/b", "llama3.2:3b")
    assert [True, True, True, True, True, False, False, False] == [is_path(word) for word in words]


def test_the_overview_names_every_command_with_its_help():
    for command in COMMANDS:
        assert any(command.verb in line and line.endswith(command.help) for line in overview().splitlines())


def test_aliases_find_their_command():
    assert ("list", "serve", None) == (find_command("ls").verb, find_command("start").verb, find_command("lst"))


def test_a_wrong_word_gets_the_nearest_command():
    assert "Error: 'rnu' is not a command\n\nhint: did you mean `localllm run`?\n" == unknown_word_text("rnu")


def test_a_verb_of_ollamas_that_is_not_there_says_why():
    assert (
        "Error: there is no `localllm push`: models are not uploaded\n\nhint: `hf upload` puts a GGUF file into a "
        "repository of Hugging Face\n"
    ) == unknown_word_text("push")
