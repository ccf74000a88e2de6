"""Events as Ollama's answers: one JSON object per line, or one object for all of it.

    {"model", "created_at", "message" | "response", "logprobs"?, "done": false}    per piece of text
    {… "done": true, "done_reason", total_duration, …, eval_duration}              last; nanoseconds
    {"error", "code", "hint"?}                                                     instead of the last, when it failed

`code`, `hint`, `queue_duration`, `prompt_cached_count`, `prompt_cache_miss` (where the prompt parted from an earlier
one), `drafted_count` (tokens that were guessed), `accepted_count` (those of them that were right), `dropped_messages`,
`dropped_tokens` and `fallback` (why something of the model is on the CPU that was meant for a GPU) are ours; Ollama's
clients ignore what they do not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from localllm.dialects.framing import (
    NANOSECONDS,
    NDJSON_MEDIA_TYPE,
    NDJSON_PING,
    collect,
    extend_call,
    is_object,
    timestamp,
    to_json,
    token_logprobs,
)
from localllm.generation import (
    AnswerEvent,
    ContentDelta,
    Failed,
    Finished,
    FinishReason,
    OfChoice,
    PromptProgress,
    ThinkingDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
)

_AFTER_CONTENT = {"chat": b"}", "generate": b""}
_NOT_DONE = b',"done":false}\n'
_CONTENT_KEY = {
    "chat": b'","message":{"role":"assistant","content":',
    "generate": b'","response":',
}
_ALWAYS = frozenset(
    ("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration")
)


class OllamaEncoder:
    """One answer to /api/chat or /api/generate. `model` is the name as the client wrote it."""

    media_type = NDJSON_MEDIA_TYPE

    def __init__(self, kind: Literal["chat", "generate"], model: str) -> None:
        self._kind = kind
        self._model = model
        self._head = b'{"model":' + to_json(model) + b',"created_at":"'
        self._content_key = _CONTENT_KEY[kind]
        self._after_content = _AFTER_CONTENT[kind]
        self._second = -1
        self._second_text = ""
        self._open_calls: dict[int, ToolCall] = {}

    def chunk(self, event: AnswerEvent, now_ns: int) -> bytes:
        """The line of `event`, and before it the tool calls that it shows to be complete."""
        if isinstance(event, ContentDelta):
            return self._complete_calls(now_ns) + self._line(to_json(event.text), now_ns, event.logprobs)
        if isinstance(event, ThinkingDelta):
            return self._complete_calls(now_ns) + self._line(b'"","thinking":' + to_json(event.text), now_ns)
        if isinstance(event, ToolCallDelta):
            before = b"" if event.index in self._open_calls else self._complete_calls(now_ns)
            self._open_calls[event.index] = extend_call(self._open_calls.get(event.index), event)
            return before
        if isinstance(event, (PromptProgress, OfChoice)):  # nobody can ask Ollama's API for several answers
            return b""
        if isinstance(event, Failed):
            return self.error(event) + b"\n"
        return self._complete_calls(now_ns) + to_json(self._last(event, now_ns, "", "", [])) + b"\n"

    def whole(self, events: Iterable[AnswerEvent], now_ns: int) -> bytes:
        """The one object of an answer that is not streamed."""
        answer = collect(events)
        finished = answer.finished or Finished("stop")
        calls = [_call(call, index) for index, call in enumerate(answer.tool_calls)]
        last = self._last(finished, now_ns, answer.content, answer.thinking, calls)
        return to_json(last | ({"logprobs": _logprobs(answer.logprobs)} if answer.logprobs else {}))

    def ping(self) -> bytes:
        """A blank before the next line."""
        return NDJSON_PING

    def error(self, failed: Failed) -> bytes:
        """Ollama's error object with our code and hint."""
        return error_body(failed)

    def _line(self, content: bytes, now_ns: int, logprobs: tuple[TokenLogprob, ...] = ()) -> bytes:
        second, nanosecond = divmod(now_ns, NANOSECONDS)
        if second != self._second:
            self._second, self._second_text = second, timestamp(second * NANOSECONDS)[:-10]
        time = f"{self._second_text}{nanosecond:09d}Z".encode()
        more = b',"logprobs":' + to_json(_logprobs(logprobs)) if logprobs else b""
        return self._head + time + self._content_key + content + self._after_content + more + _NOT_DONE

    def _complete_calls(self, now_ns: int) -> bytes:
        if not self._open_calls:
            return b""
        calls, self._open_calls = self._open_calls, {}
        lines = []
        for index, call in calls.items():
            if is_object(call.arguments):
                lines.append(self._line(b'"","tool_calls":' + to_json([_call(call, index)]), now_ns))
            else:  # cut off by a limit: shown as the text it is, so that nothing is lost
                lines.append(self._line(to_json(call.name + call.arguments), now_ns))
        return b"".join(lines)

    def _last(self, event: Finished, now_ns: int, content: str, thinking: str, calls: list[Any]) -> dict[str, Any]:
        text: dict[str, Any] = {}
        if thinking:
            text["thinking"] = thinking
        if calls:
            text["tool_calls"] = calls
        if self._kind == "chat":
            text = {"message": {"role": "assistant", "content": content, **text}}
        else:
            text = {"response": content, **text}
        return {
            "model": self._model,
            "created_at": timestamp(now_ns),
            **text,
            "done": True,
            "done_reason": _done_reason(event.reason),
            **({"context": event.context} if event.context else {}),
            **_metrics(event),
        }


def rendered_body(model: str, prompt: str, tokens: Sequence[int], now_ns: int, *, is_chat: bool) -> bytes:
    """The prompt instead of an answer, for `_debug_render_only`; the tokens are ours."""
    said: dict[str, Any] = {"message": {"role": "assistant", "content": ""}} if is_chat else {"response": ""}
    shown = {"rendered_template": prompt, "tokens": list(tokens)}
    head = {"model": model, "created_at": timestamp(now_ns)}
    return to_json({**head, **said, "done": False, "_debug_info": shown})


def error_body(failed: Failed) -> bytes:
    """{"error": message} with our code and, where there is one, the hint."""
    body = {"error": failed.message, "code": failed.code}
    if failed.hint:
        body["hint"] = failed.hint
    return to_json(body)


def _logprobs(logprobs: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """Ollama leaves out a `top_logprobs` that was not asked for."""
    return [{name: value for name, value in one.items() if value != []} for one in token_logprobs(logprobs)]


def _done_reason(reason: FinishReason) -> str:
    return "stop" if reason == "tool_calls" else reason


def _call(call: ToolCall, index: int) -> dict[str, Any]:
    function = {"index": index, "name": call.name, "arguments": msgspec.Raw(call.arguments.encode())}
    return {"id": call.id, "function": function} if call.id else {"function": function}


def _metrics(event: Finished) -> dict[str, Any]:
    """The figures. Ollama's own are always there where something was computed: its clients may insist on them."""
    usage, timings = event.usage, event.timings
    metrics: dict[str, Any] = {
        "total_duration": round(timings.total_seconds * NANOSECONDS),
        "load_duration": round(timings.load_seconds * NANOSECONDS),
        "queue_duration": round(timings.queue_seconds * NANOSECONDS),
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_cached_count": usage.cached_tokens,
        "prompt_eval_duration": round(timings.prefill_seconds * NANOSECONDS),
        "eval_count": usage.completion_tokens,
        "eval_duration": round(timings.decode_seconds * NANOSECONDS),
        "drafted_count": usage.drafted_tokens,
        "accepted_count": usage.accepted_tokens,
        "prompt_cache_miss": event.cache_miss,
        "dropped_messages": event.dropped_messages,
        "dropped_tokens": event.dropped_tokens,
        "unfinished_tool_call": event.unfinished_tool_call,
        "fallback": event.fallback,
    }
    always = _ALWAYS if usage.prompt_tokens else ()
    return {name: value for name, value in metrics.items() if value or name in always}
