"""What a model's answer looks like: where thinking and tool calls begin and end in its text.

An OutputFormat is plain data that parser.py follows; a new syntax of calls is new data, not new code. One
is found by asking the model's own template: `detect` renders the same conversation with and without a call (and with
thinking) and reads the markers off the difference. Where a template does not show them, a short table of markers is
searched for in its source. What is recognised (…: any text, blanks allowed between all parts):

    Hermes, Qwen     <tool_call>{"name": …, "arguments": …}</tool_call>
    Llama 3          {"name": …, "parameters": …}   as the whole answer, or behind <|python_tag|>; more after ";"
                     <|python_tag|>name.call(key="value")   or a program
    Mistral          [TOOL_CALLS][{"name": …, "arguments": …}, …]
    others           the name between markers, arguments as JSON or between markers too, Python's calls (syntax.py)
    thinking         <think>…</think> and other pairs of markers

A template whose calls cannot be read back has `calls` None: the text then stays text.
"""

from __future__ import annotations

from dataclasses import dataclass

from localllm.chat.calls import HERMES_CALLS, LLAMA_CALLS, MISTRAL_CALLS, call_syntax, text_before_calls
from localllm.chat.channels import find_channels, head_of_thinking, written_calls
from localllm.chat.probes import Probe
from localllm.chat.programs import PROGRAM_MARK
from localllm.chat.syntax import AnswerMarkers, CallSyntax, Channels, Syntax, ThinkingMarkers, tokens_of
from localllm.chat.templates import Template
from localllm.chat.thinking import THINK_TAGS, answer_markers, thinking_markers

__all__ = [
    "HERMES_CALLS",
    "LLAMA_CALLS",
    "MISTRAL_CALLS",
    "THINK_TAGS",
    "CallSyntax",
    "OutputFormat",
    "ThinkingMarkers",
    "detect",
]


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """The markers of one model; None where it has none.

    With `channels` these alone say how an answer is read; thinking and calls are what they come to. `shows_tools` says
    whether the template tells the model what tools there are, `parallel_calls` whether it shows several in one answer.
    Behind a `program_mark` a program may stand (programs.py).
    """

    thinking: ThinkingMarkers | None = None
    calls: Syntax | None = None
    answer: AnswerMarkers | None = None
    channels: Channels | None = None
    shows_tools: bool = True
    parallel_calls: bool = True
    program_mark: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts the parser must see although a vocabulary may hold them as control tokens."""
        thinking = (*tokens_of(self.thinking.start), *tokens_of(self.thinking.end)) if self.thinking else ()
        parts = (self.calls, self.answer, self.channels)
        found = (*thinking, *(marker for part in parts if part for marker in part.markers), self.program_mark)
        return tuple(dict.fromkeys(marker for marker in found if marker))

    @property
    def capabilities(self) -> tuple[str, ...]:
        """In Ollama's words."""
        found = {"tools": self.calls is not None and self.shows_tools, "thinking": self.thinking is not None}
        return ("completion", *(name for name, there in found.items() if there))

    def opens_thinking(self, prompt: str) -> bool:
        """Whether the prompt ends inside thinking, so that the answer begins there."""
        return self.thinking is not None and prompt.rstrip().endswith(self.thinking.start)

    def opens_text(self, prompt: str) -> bool:
        """Whether the prompt ends with what stands before the answer's text."""
        start = self.answer.start if self.answer else ""
        return bool(start) and prompt.rstrip().endswith(start)


def detect(template: Template) -> OutputFormat:
    """The format of the answers that `template` describes. Renders it a few times; never raises."""
    probe = Probe(template)
    if channels := find_channels(probe):
        return _of_channels(channels, probe)
    thinking = thinking_markers(probe)
    answer = answer_markers(probe, thinking)
    calls = call_syntax(probe, answer)
    answer = answer or text_before_calls(probe, calls)
    parallel = probe.parallel_calls or (probe.called is None and calls is not None)
    mark = PROGRAM_MARK if PROGRAM_MARK in template.source else ""
    return OutputFormat(thinking, calls, answer, None, probe.shows_tools, parallel, mark)


def _of_channels(channels: Channels, probe: Probe) -> OutputFormat:
    thinking = None
    if channels.thinking:
        header = (head_of_thinking(probe) or "").strip()
        thinking = ThinkingMarkers(header, channels.ends[0] if channels.ends else channels.start)
    calls = channels.calls or written_calls(channels, probe)
    return OutputFormat(
        thinking, calls, channels=channels, shows_tools=probe.shows_tools, parallel_calls=probe.parallel_calls
    )
