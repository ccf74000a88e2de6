"""The model's text, piece by piece, into events: content, thinking, tool calls.

Two kinds of answer, told apart by the format: text with markers in it (marked.py), and messages that each have a header
(messages.py). What both keep to: text that only looks like a marker, or like a call, is content, every character of it;
a call is held back until it is complete, then given out as its name and its arguments (or from where it cannot be
anything else: early.py); any way of cutting the text into pieces gives the same events once neighbours are joined;
thinking is never searched for calls; nothing raises.
Which markers a model uses is formats.py's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from localllm.chat.formats import OutputFormat
from localllm.chat.marked import MarkedParser
from localllm.chat.messages import MessagesParser
from localllm.generation import Event, Tool


class OutputParser:
    """Parses one answer. Calls are looked for only when the request has `tools`, thinking only when there are markers.

    `prompt` is the text that the answer follows; it may open thinking, the answer's text, or a message. Who has only a
    part of that to say says `prompt_opens_thinking`. `new_call_id` makes the id of each call (tools.call_ids).
    Thinking may be `cut_short`, by a budget: then its end said a second time is no text.
    The arguments of the tools in `early` are given out while they are written, which is for calls that cannot turn out
    to be none.
    """

    def __init__(
        self,
        output_format: OutputFormat,
        tools: Sequence[Tool],
        *,
        prompt: str | None = None,
        prompt_opens_thinking: bool = False,
        early: frozenset[str] = frozenset(),
        cut_short: bool = False,
        new_call_id: Callable[[], str],
    ) -> None:
        opens = prompt_opens_thinking or (prompt is not None and output_format.opens_thinking(prompt))
        self._parser: MarkedParser | MessagesParser
        if output_format.channels is not None:
            self._parser = MessagesParser(
                output_format, tools, new_call_id, prompt=prompt, opens_thinking=opens, early=early
            )
        else:
            opens_text = prompt is not None and output_format.opens_text(prompt)
            self._parser = MarkedParser(
                output_format,
                tools,
                new_call_id,
                opens_thinking=opens,
                opens_text=opens_text,
                early=early,
                cut_short=cut_short,
            )

    @property
    def call_count(self) -> int:
        """How many calls were read."""
        return self._parser.call_count

    @property
    def has_unfinished_call(self) -> bool:
        """Whether the answer ended within a call, which came back as content then."""
        return self._parser.has_unfinished_call

    def feed(self, text: str) -> list[Event]:
        """The events that `text`, the next piece of the answer, completes."""
        return self._parser.feed(text)

    def finish(self, *, stopped: bool = False) -> list[Event]:
        """The answer has ended: whatever was held back comes out.

        With `stopped` the model ended it itself, and a call that lacks nothing but its last brackets gets them; one
        that was cut does not, for it may lack arguments too.
        """
        return self._parser.finish(stopped=stopped)
