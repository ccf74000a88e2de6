"""Events as Anthropic's messages: named server-sent events, or one object for all of it.

    message_start ▶ (content_block_start ▶ content_block_delta* ▶ content_block_stop)* ▶ message_delta ▶ message_stop
         │  ping, whenever nothing else comes for a while                                    │
         └───────────────────────── error, when it failed ◀──────────────────────────────────┘

A block is text, thinking or one tool call. `input_tokens` are those that had to be computed, as Anthropic counts them;
a stream knows that at its end only: message_start has those of the whole prompt, and message_delta corrects them.
Thinking is not signed. It has a signature all the same, which says nothing: agents send thinking without one back as if
it were text of the answer, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from localllm.dialects.framing import SSE_MEDIA_TYPE, collect, to_json
from localllm.generation import (
    AnswerEvent,
    ContentDelta,
    Failed,
    Finished,
    OfChoice,
    PromptProgress,
    ThinkingDelta,
    ToolCallDelta,
    Usage,
)

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_Kind = Literal["text", "thinking", "tool_use"]
SIGNATURE = "bG9jYWxsbG0="  # base64, as Anthropic's are


class AnthropicEncoder:
    """One answer to /v1/messages. `id` is unique; `model` is the name as the client wrote it.

    `stop_sequences` and `max_tokens` are the client's: a stop string of the Modelfile's ends a turn like any other end.
    """

    media_type = SSE_MEDIA_TYPE

    def __init__(
        self, id: str, model: str, stop_sequences: tuple[str, ...], max_tokens: int | None, *, request_id: str = ""
    ) -> None:
        self._id = id
        self._request_id = request_id
        self._model = model
        self._stop_sequences = stop_sequences
        self._max_tokens = max_tokens
        self._has_started = False
        self._index = -1
        self._open: tuple[_Kind, int] | None = None  # and which call, where it is one
        self._has_calls = False

    def chunk(self, event: AnswerEvent, now_ns: int) -> bytes:
        """The events that `event` becomes; those of Finished and Failed are the last."""
        if isinstance(event, Failed):
            return _sse("error", _error(event, self._request_id))
        before = b"" if self._has_started else self._start(event)
        if isinstance(event, ContentDelta):
            return before + (self._delta("text", {"type": "text_delta", "text": event.text}) if event.text else b"")
        if isinstance(event, ThinkingDelta):
            return before + self._delta("thinking", {"type": "thinking_delta", "thinking": event.text})
        if isinstance(event, ToolCallDelta):
            return before + self._call_delta(event)
        if isinstance(event, (PromptProgress, OfChoice)):
            return before
        return before + self._end(event)

    def whole(self, events: Iterable[AnswerEvent], now_ns: int) -> bytes:
        """The one object of an answer that is not streamed."""
        answer = collect(events)
        content: list[dict[str, Any]] = []
        if answer.thinking:
            content.append({"type": "thinking", "thinking": answer.thinking, "signature": SIGNATURE})
        if answer.content:
            content.append({"type": "text", "text": answer.content})
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": msgspec.Raw(call.arguments.encode())}
            for call in answer.tool_calls
        ]
        finished = answer.finished or Finished("stop")
        return to_json(
            {
                **self._message(content),
                **self._stop(finished, has_calls=bool(answer.tool_calls)),
                "usage": _usage(finished.usage),
            }
        )

    def ping(self) -> bytes:
        """Anthropic's event for it."""
        return b'event: ping\ndata: {"type":"ping"}\n\n'

    def error(self, failed: Failed) -> bytes:
        """Anthropic's error object."""
        return error_body(failed, self._request_id)

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "role": "assistant", "model": self._model, "content": content}

    def _start(self, event: AnswerEvent) -> bytes:
        self._has_started = True
        tokens = event.prompt_tokens if isinstance(event, PromptProgress) else 0
        stop = {"stop_reason": None, "stop_sequence": None}
        message = {**self._message([]), **stop, "usage": _usage(Usage(tokens))}
        return _sse("message_start", {"type": "message_start", "message": message})

    def _delta(self, kind: _Kind, delta: dict[str, Any], call: int = 0, start: dict[str, Any] | None = None) -> bytes:
        """A delta of the block that is open, after opening one of its kind if it is not."""
        before = b""
        if self._open != (kind, call):
            before = self._close()
            self._open = (kind, call)
            self._index += 1
            empty = (
                {"type": "thinking", "thinking": "", "signature": ""}
                if kind == "thinking"
                else {"type": "text", "text": ""}
            )
            block = {"type": "content_block_start", "index": self._index, "content_block": start or empty}
            before += _sse("content_block_start", block)
        body = {"type": "content_block_delta", "index": self._index, "delta": delta}
        return before + _sse("content_block_delta", body)

    def _call_delta(self, event: ToolCallDelta) -> bytes:
        self._has_calls = True
        start = {"type": "tool_use", "id": event.id or "", "name": event.name or "", "input": {}}
        return self._delta(
            "tool_use", {"type": "input_json_delta", "partial_json": event.arguments}, event.index, start
        )

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        kind, _ = self._open
        before = (
            self._delta("thinking", {"type": "signature_delta", "signature": SIGNATURE}) if kind == "thinking" else b""
        )
        self._open = None
        return before + _sse("content_block_stop", {"type": "content_block_stop", "index": self._index})

    def _end(self, event: Finished) -> bytes:
        stop = self._stop(event, has_calls=self._has_calls)
        delta = {"type": "message_delta", "delta": stop, "usage": _usage(event.usage)}
        return self._close() + _sse("message_delta", delta) + _sse("message_stop", {"type": "message_stop"})

    def _stop(self, event: Finished, *, has_calls: bool) -> dict[str, Any]:
        reason, sequence = "tool_use" if has_calls else "end_turn", None
        if event.reason == "length":
            is_full = self._max_tokens is not None and event.usage.completion_tokens < self._max_tokens
            reason = "model_context_window_exceeded" if is_full else "max_tokens"
        elif event.stop_text in self._stop_sequences:
            reason, sequence = "stop_sequence", event.stop_text
        return {"stop_reason": reason, "stop_sequence": sequence}


def count_body(input_tokens: int) -> bytes:
    """The answer of /v1/messages/count_tokens."""
    return to_json({"input_tokens": input_tokens})


def error_body(failed: Failed, request_id: str) -> bytes:
    """{"type": "error", "error": {"type", "message"}, "request_id"} and, where there is one, our hint."""
    return to_json(_error(failed, request_id))


def _error(failed: Failed, request_id: str) -> dict[str, Any]:
    error = {"type": _ERROR_TYPES.get(failed.status, "api_error"), "message": failed.message}
    if failed.hint:
        error["hint"] = failed.hint
    return {"type": "error", "error": error, "request_id": request_id}


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _sse(name: str, value: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + to_json(value) + b"\n\n"
