"""The child's text side of what goes out: the engine's outputs for one request → events."""

from __future__ import annotations

from localllm.chat.logprobs import LogprobAttacher
from localllm.engine.sequence import Finish, SequenceOutput
from localllm.generation import (
    ContentDelta,
    Event,
    Finished,
    PromptProgress,
    ThinkingDelta,
    Timings,
    ToolCallDelta,
    Usage,
)
from localllm.runner.conversation import Prepared


class Stream:
    """One running request: turns the engine's outputs for it into events."""

    def __init__(self, prepared: Prepared) -> None:
        self._parser = prepared.parser
        self._prompt_tokens = len(prepared.sequence.prompt)
        self._dropped_messages, self._dropped_tokens = prepared.dropped_messages, prepared.dropped_tokens
        self._has_tool_calls = False
        self._logprobs = LogprobAttacher()
        self._exchange = prepared.exchange
        self._unspoken_tokens = self._thinking_tokens = 0

    def started(self) -> PromptProgress:
        """The first event: the prompt's length is known."""
        return PromptProgress(0, self._prompt_tokens)

    def events(self, output: SequenceOutput) -> list[Event]:
        """The events of one output that is not an error."""
        events: list[Event] = []
        if output.prompt_processed is not None:
            figures = output.prompt_processed, self._prompt_tokens, output.prompt_cached
            events.append(PromptProgress(*figures, output.prompt_logprobs))
        if self._exchange is not None:
            self._exchange.note(output)
        spoken: list[Event] = []
        if output.text:
            spoken += self._parser.feed(output.text) if self._parser else [ContentDelta(output.text)]
        if output.finish is not None:
            spoken += self._parser.finish(stopped=_ended_itself(output.finish)) if self._parser else []
        self._count_thinking(output, spoken)
        events += self._logprobs.attach(spoken, output.logprobs, is_last=output.finish is not None)
        self._has_tool_calls |= any(isinstance(event, ToolCallDelta) for event in events)
        if output.finish is not None:
            events.append(self._finished(output.finish))
        return events

    def _count_thinking(self, output: SequenceOutput, spoken: list[Event]) -> None:
        """Tokens count as what comes of them: their text may be held back for a while."""
        self._unspoken_tokens += len(output.tokens)
        if not spoken:
            return
        if any(isinstance(event, ThinkingDelta) for event in spoken):
            self._thinking_tokens += self._unspoken_tokens
        self._unspoken_tokens = 0

    def _finished(self, finish: Finish) -> Finished:
        stats = finish.stats
        return Finished(
            reason="tool_calls" if finish.reason == "stop" and self._has_tool_calls else finish.reason,
            usage=Usage(
                stats.prompt_tokens,
                stats.cached_tokens,
                stats.completion_tokens,
                self._thinking_tokens,
                stats.drafted_tokens,
                stats.accepted_tokens,
            ),
            timings=Timings(
                queue_seconds=stats.queue_seconds,
                prefill_seconds=stats.prefill_seconds,
                decode_seconds=stats.decode_seconds,
            ),
            dropped_messages=self._dropped_messages,
            dropped_tokens=self._dropped_tokens + stats.dropped_tokens,
            cache_miss=stats.cache_miss,
            stop_text=finish.stop_text,
            context=self._exchange.context(finish) if self._exchange is not None else (),
            unfinished_tool_call=self._parser is not None and self._parser.has_unfinished_call,
        )


def _ended_itself(finish: Finish) -> bool:
    """Whether the model ended the answer; what a stop text or a limit cut may lack more than its end."""
    return finish.reason == "stop" and finish.stop_text is None
