"""Logprobs beside a parsed answer: which tokens are the content's, and which were thinking, calls or their markers.

The parser knows text, not tokens, and gives text out later than it comes. So each content event takes the tokens whose
bytes its text has. Tokens in front of it are markers that the parser ate, if something else than content came before,
and they are dropped, as those of thinking and of calls are: no dialect has a place for them.
"""

from __future__ import annotations

from localllm.generation import ContentDelta, Event, ThinkingDelta, TokenLogprob, ToolCallDelta


class LogprobAttacher:
    """Attaches the logprobs of one answer to its content events."""

    def __init__(self) -> None:
        self._waiting: list[TokenLogprob] = []
        self._is_content = True  # what came out last: nothing yet counts as content

    def attach(self, events: list[Event], logprobs: tuple[TokenLogprob, ...], *, is_last: bool) -> list[Event]:
        """The events of one step with its logprobs; what has no text yet waits, and comes with the last step."""
        self._waiting += logprobs
        if not self._waiting:
            return events
        attached = [self._attach(event) for event in events]
        if is_last and self._waiting and self._is_content:
            attached.append(ContentDelta("", self._take(len(self._waiting))))
        return attached

    def _attach(self, event: Event) -> Event:
        if isinstance(event, ContentDelta):
            start, end = self._span(event.text)
            if not self._is_content:
                self._take(start)
                end -= start
            self._is_content = True
            return ContentDelta(event.text, self._take(end))
        if isinstance(event, ThinkingDelta):
            self._is_content = False
            self._take(self._span(event.text)[1])
        elif isinstance(event, ToolCallDelta):
            self._is_content = False
            self._waiting.clear()
        return event

    def _span(self, text: str) -> tuple[int, int]:
        """The waiting tokens [start, end) that have part in `text`; all of them if it is not found in their bytes."""
        data = text.encode("utf-8", "replace")
        first = b"".join(one.data for one in self._waiting).find(data)
        if first < 0:
            return 0, len(self._waiting)
        at, start = 0, 0
        for index, one in enumerate(self._waiting):
            if at >= first + len(data):
                return start, index
            at += len(one.data)
            if at <= first:
                start = index + 1
        return start, len(self._waiting)

    def _take(self, count: int) -> tuple[TokenLogprob, ...]:
        taken, self._waiting = tuple(self._waiting[:count]), self._waiting[count:]
        return taken
