"""Show an answer while it streams: thinking apart from content, lines wrapped on a terminal, statistics at the end.

Content goes to stdout. Thinking goes to stdout only when that is a terminal (dim, between two marker lines), else to
stderr, so that a pipe gets the answer alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TypeVar

from localllm.cli.arguments import AnswerStyle
from localllm.cli.figures import nanoseconds_text
from localllm.cli.output import Screen, Spinner
from localllm.cli.wordwrap import WordWrapper
from localllm.client import ChatChunk, GenerateChunk, Metrics

_Chunk = TypeVar("_Chunk", GenerateChunk, ChatChunk)


class AnswerWriter:
    """Writes one answer. States: nothing yet → thinking → content; `finish` leaves the cursor at a line's start."""

    def __init__(self, screen: Screen, style: AnswerStyle) -> None:
        self._screen = screen
        self._style = style
        wraps = style.wraps_words and screen.stdout_is_terminal and screen.moves_cursor
        self._wrapper = WordWrapper(screen.columns) if wraps else None
        self._is_thinking = False
        self._ends_in_newline = True
        self._content: list[str] = []
        self._thoughts: list[str] = []

    @property
    def content(self) -> str:
        """The answer so far, as the model wrote it."""
        return "".join(self._content)

    @property
    def thinking(self) -> str:
        """The thinking so far, as the model wrote it."""
        return "".join(self._thoughts)

    def write(self, content: str, thinking: str | None) -> None:
        """Show one piece of the stream."""
        if thinking:
            self._thoughts.append(thinking)
            self._show_thinking(thinking)
        if content:
            self._content.append(content)
            self._end_thinking()
            self._show(content)

    def finish(self) -> None:
        """End the last line; called also after a cancelled answer."""
        self._end_thinking()
        if self._content and not self._ends_in_newline:
            self._screen.out("\n")
            self._ends_in_newline = True

    def _show_thinking(self, text: str) -> None:
        if self._style.hides_thinking:
            return
        if not self._is_thinking:
            self._is_thinking = True
            self._write_thought("Thinking...\n")
        self._write_thought(text)

    def _end_thinking(self) -> None:
        if self._is_thinking:
            self._is_thinking = False
            self._write_thought("\n...done thinking.\n\n")

    def _write_thought(self, text: str) -> None:
        screen = self._screen
        if screen.stdout_is_terminal:
            screen.out(screen.dim(self._wrapped(screen.clean(text))))
        else:
            screen.stderr.write(text)
            screen.stderr.flush()

    def _show(self, text: str) -> None:
        self._ends_in_newline = text.endswith("\n")
        self._screen.out(self._wrapped(self._screen.clean(text)))

    def _wrapped(self, text: str) -> str:
        return self._wrapper.feed(text) if self._wrapper else text


def show_answer(
    chunks: Generator[_Chunk, None, None], model: str, screen: Screen, writer: AnswerWriter, *, is_only: bool = False
) -> _Chunk:
    """Show a whole stream and return its last chunk. However it ends, also by Ctrl-C, the stream is closed.

    That a model had to go to the CPU is told when it was loaded for this answer, or when this is the only one.
    """
    last: _Chunk | None = None
    # The client's streams are generators: closing one closes its connection, by which the daemon frees the request.
    with closing(chunks):
        try:
            for last in _spin_until_the_first(chunks, f"waiting for {model}", screen):
                writer.write(*_texts(last))
        finally:
            writer.finish()
    assert last is not None, "a stream ends with a chunk that is done, or raises"
    if last.fallback and (is_only or last.load_duration):
        screen.warn(f"{model} is on the CPU, or partly so: {last.fallback}", hint="`localllm ps` shows what lies where")
    return last


def _texts(chunk: GenerateChunk | ChatChunk) -> tuple[str, str | None]:
    if isinstance(chunk, GenerateChunk):
        return chunk.response, chunk.thinking
    return chunk.message.content, chunk.message.thinking


def _spin_until_the_first(chunks: Iterator[_Chunk], text: str, screen: Screen) -> Iterator[_Chunk]:
    with Spinner(screen, text):
        first = next(chunks, None)
    if first is not None:
        yield first
        yield from chunks


def statistics_lines(metrics: Metrics) -> list[str]:
    """What --verbose shows, in Ollama's words and order, and what it does not say; what is 0 is left out."""
    rows = (
        ("total duration:", _duration(metrics.total_duration)),
        ("load duration:", _duration(metrics.load_duration)),
        ("prompt eval count:", _tokens(metrics.prompt_eval_count)),
        ("prompt cached:", _tokens(metrics.prompt_cached_count)),
        ("prompt eval duration:", _duration(metrics.prompt_eval_duration)),
        (
            "prompt eval rate:",
            _rate(metrics.prompt_eval_count - metrics.prompt_cached_count, metrics.prompt_eval_duration),
        ),
        ("eval count:", _tokens(metrics.eval_count)),
        ("eval duration:", _duration(metrics.eval_duration)),
        ("eval rate:", _rate(metrics.eval_count, metrics.eval_duration)),
        ("guessed before:", _guesses(metrics)),
        ("dropped from context:", _tokens(metrics.dropped_tokens)),
    )
    return [f"{label:<22}{value}" for label, value in rows if value]


def _guesses(metrics: Metrics) -> str:
    return f"{metrics.accepted_count} of {_tokens(metrics.drafted_count)} right" if metrics.drafted_count else ""


def _duration(nanoseconds: int) -> str:
    return nanoseconds_text(nanoseconds) if nanoseconds else ""


def _tokens(count: int) -> str:
    return f"{count} token(s)" if count else ""


def _rate(count: int, nanoseconds: int) -> str:
    return f"{count / (nanoseconds / 1e9):.2f} tokens/s" if count and nanoseconds else ""
