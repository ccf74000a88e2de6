"""What the answers of every dialect have in common: the encoder's shape, timestamps, whole answers, SSE events.

    events ──▶ Encoder.chunk()  ──▶ bytes of a stream, event by event; the last event's bytes end the stream
           └─▶ Encoder.whole()  ──▶ the one body of an answer that is not streamed

Pure: the wall clock comes in as nanoseconds since the epoch. Nothing here knows a dialect.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Protocol

import msgspec

from localllm.generation import (
    AnswerEvent,
    ContentDelta,
    Event,
    Failed,
    Finished,
    OfChoice,
    PromptProgress,
    ThinkingDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
)

JSON_MEDIA_TYPE = "application/json; charset=utf-8"
NDJSON_MEDIA_TYPE = "application/x-ndjson"
SSE_MEDIA_TYPE = "text/event-stream; charset=utf-8"
NANOSECONDS = 1_000_000_000
# What streams send so that nobody takes their silence for an end. A comment is no event; and a line of JSON may begin
# with blanks, while an empty line would be no JSON.
SSE_PING = b": keep-alive\n\n"
NDJSON_PING = b" "

_encoder = msgspec.json.Encoder()


class Encoder(Protocol):
    """One answer in one dialect; it keeps what a stream must remember, so each request has its own."""

    @property
    def media_type(self) -> str:
        """The Content-Type of a stream."""
        ...

    def ping(self) -> bytes:
        """What a stream says when it has been silent for long: that it goes on."""
        ...

    def chunk(self, event: AnswerEvent, now_ns: int) -> bytes:
        """What a stream sends for `event`; may be empty. The bytes of Finished and Failed end the stream."""
        ...

    def whole(self, events: Iterable[AnswerEvent], now_ns: int) -> bytes:
        """The body of an answer that is not streamed, from all its events."""
        ...

    def error(self, failed: Failed) -> bytes:
        """The body of an answer with an error status."""
        ...


@dataclass(slots=True)
class Answer:
    """An answer put together from its events; `prompt_logprobs` only where they were asked for."""

    content: str = ""
    thinking: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    finished: Finished | None = None


def collect(events: Iterable[AnswerEvent]) -> Answer:
    """Put `events` together. A tool call that was cut off (its arguments are no JSON) becomes part of the content."""
    answer = Answer()
    content: list[str] = []
    thinking: list[str] = []
    calls: dict[int, ToolCall] = {}
    for event in events:
        if isinstance(event, ContentDelta):
            content.append(event.text)
            answer.logprobs += event.logprobs
        elif isinstance(event, ThinkingDelta):
            thinking.append(event.text)
        elif isinstance(event, ToolCallDelta):
            calls[event.index] = extend_call(calls.get(event.index), event)
        elif isinstance(event, PromptProgress):
            answer.prompt_logprobs += event.logprobs
        elif isinstance(event, Finished):
            answer.finished = event
    for call in calls.values():
        if is_object(call.arguments):
            answer.tool_calls.append(call)
        else:
            content.append(call.name + call.arguments)
    answer.content, answer.thinking = "".join(content), "".join(thinking)
    return answer


def collect_choices(events: Iterable[AnswerEvent]) -> tuple[list[Answer], Finished]:
    """The answers of a request for several, or its only one, and the Finished that is for all."""
    choices: dict[int, list[Event]] = {}
    finished = Finished("stop")
    has_several = False
    for event in events:
        if isinstance(event, OfChoice):
            has_several = True
            choices.setdefault(event.index, []).append(event.event)
            continue
        if isinstance(event, Finished):
            finished = event
        if not has_several:  # else each choice has had its own end, and this one is of all
            choices.setdefault(0, []).append(event)
    return [collect(choices[index]) for index in sorted(choices)], finished


def merged(events: Iterable[AnswerEvent]) -> Iterator[AnswerEvent]:
    """The same answer in fewer events: neighbours that are more of one text, thought or call become one."""
    for of, run in groupby(events, _merges_with):
        first, *more = run
        if of is None or not more:
            yield from (first, *more)
        elif isinstance(first, ContentDelta):
            deltas = [first, *(one for one in more if isinstance(one, ContentDelta))]
            logprobs = tuple(logprob for one in deltas for logprob in one.logprobs)
            yield ContentDelta("".join(one.text for one in deltas), logprobs)
        elif isinstance(first, ThinkingDelta):
            yield ThinkingDelta("".join([first.text, *(one.text for one in more if isinstance(one, ThinkingDelta))]))
        elif isinstance(first, ToolCallDelta):
            pieces = (one.arguments for one in more if isinstance(one, ToolCallDelta))
            yield msgspec.structs.replace(first, arguments="".join([first.arguments, *pieces]))


def _merges_with(event: AnswerEvent) -> tuple[type, int] | None:
    if isinstance(event, (ContentDelta, ThinkingDelta)):
        return type(event), 0
    return (ToolCallDelta, event.index) if isinstance(event, ToolCallDelta) else None


def extend_call(call: ToolCall | None, delta: ToolCallDelta) -> ToolCall:
    """The call with one more piece."""
    if call is None:
        return ToolCall(delta.id or "", delta.name or "", delta.arguments)
    return ToolCall(delta.id or call.id, delta.name or call.name, call.arguments + delta.arguments)


def token_logprobs(logprobs: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """[{"token", "logprob", "bytes": [0..255, …], "top_logprobs": [the same without its top]}], as all dialects do."""
    return [{**_token(one), "top_logprobs": [_token(other) for other in one.top]} for one in logprobs]


def _token(one: TokenLogprob) -> dict[str, Any]:
    return {"token": one.text, "logprob": one.logprob, "bytes": list(one.data)}


def is_object(text: str) -> bool:
    """Whether `text` is the JSON of an object."""
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (msgspec.DecodeError, RecursionError):
        return False


def to_json(value: Any) -> bytes:
    """Compact JSON; msgspec.Raw values go in as they are."""
    return _encoder.encode(value)


def sse(data: bytes) -> bytes:
    """One server-sent event."""
    return b"data: " + data + b"\n\n"


def timestamp(now_ns: int) -> str:
    """RFC 3339 in UTC with nanoseconds: 2026-01-02T03:04:05.000000006Z."""
    seconds, nanoseconds = divmod(now_ns, NANOSECONDS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
