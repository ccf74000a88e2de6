"""Events as OpenAI's chat completions: server-sent events, or one object for all of it.

    data: {"id", "object", "created", "model", "choices": [{"index", "delta", "logprobs"?, "finish_reason": null}]}
    data: {…, "choices": [{"delta": {}, "finish_reason": "stop" | "length" | "tool_calls"}]}
    data: {…, "choices": [], "usage"}                       only with stream_options.include_usage
    data: {"error": {"message", "type", "param", "code"}}   instead of the last two, when it failed
    data: [DONE]

The role comes in the first delta only. Thinking is sent as `reasoning` and as `reasoning_content`: clients read one or
the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from localllm.dialects.framing import (
    NANOSECONDS,
    SSE_MEDIA_TYPE,
    SSE_PING,
    Answer,
    collect_choices,
    sse,
    to_json,
    token_logprobs,
)
from localllm.dialects.prompt_progress import PromptReport
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

DONE = b"data: [DONE]\n\n"
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
}
# The codes that OpenAI's clients look for.
ERROR_CODES = {
    "prompt_too_long": "context_length_exceeded",
    "input_too_long": "context_length_exceeded",
    "unauthorized": "invalid_api_key",
}


class _Choice:
    """The stream of one choice: what it must remember between its events. `head` begins every object of the answer."""

    def __init__(self, head: bytes, index: int, report: PromptReport | None) -> None:
        self._before_delta = b"data: " + head + b',"choices":[{"index":' + str(index).encode() + b',"delta":{'
        self._role = b'"role":"assistant",'
        self._has_calls = False
        self._report = report

    def chunk(self, event: Event, now_ns: int) -> bytes:
        """The events that `event` becomes."""
        if self._report is None:
            return self._said(event)
        if isinstance(event, PromptProgress):
            return self._progress(self._report.step(event, now_ns))
        last = self._report.end(now_ns)
        return (self._progress(last) if last else b"") + self._said(event)

    def _progress(self, progress: dict[str, Any]) -> bytes:
        role, self._role = self._role, b""
        content = b'"content":null' if role else b""
        after = b'},"finish_reason":null}],"prompt_progress":' + to_json(progress) + b"}\n\n"
        return self._before_delta + role + content + after

    def _said(self, event: Event) -> bytes:
        if isinstance(event, ContentDelta):
            return self._delta(b'"content":' + to_json(event.text), event.logprobs)
        if isinstance(event, ThinkingDelta):
            text = to_json(event.text)
            content = b'"content":"",' if self._role else b""
            return self._delta(content + b'"reasoning":' + text + b',"reasoning_content":' + text)
        if isinstance(event, ToolCallDelta):
            self._has_calls = True
            content = b'"content":null,' if self._role else b""
            return self._delta(content + b'"tool_calls":' + to_json([_call_delta(event)]))
        return self._end(event) if isinstance(event, Finished) else b""

    def _delta(self, inner: bytes, logprobs: tuple[TokenLogprob, ...] = ()) -> bytes:
        role, self._role = self._role, b""
        more = b',"logprobs":' + to_json(_logprobs(logprobs)) if logprobs else b""
        return self._before_delta + role + inner + b"}" + more + b',"finish_reason":null}]}\n\n'

    def _end(self, event: Finished) -> bytes:
        before = self._delta(b'"content":""') if self._role else b""
        reason = _finish_reason(event, has_calls=self._has_calls).encode()
        return before + self._before_delta + b'},"finish_reason":"' + reason + b'"}]}\n\n'


class OpenAIEncoder:
    """One answer to /v1/chat/completions. `id` is unique; `model` is the name as the client wrote it."""

    media_type = SSE_MEDIA_TYPE

    def __init__(
        self,
        id: str,
        model: str,
        created_ns: int,
        *,
        include_usage: bool,
        service_tier: str | None = None,
        reports_progress: bool = False,
    ) -> None:
        self._common = {"id": id, "created": created_ns // NANOSECONDS, "model": model}
        self._include_usage = include_usage
        # There is one tier here; whoever asked for any is told which it was.
        self._tier: dict[str, Any] = {"service_tier": "default"} if service_tier else {}
        head = {"id": id, "object": "chat.completion.chunk", "created": created_ns // NANOSECONDS, "model": model}
        self._head = to_json({**head, "system_fingerprint": "fp_localllm", **self._tier})[:-1]
        self._reports_progress = reports_progress
        self._choices = {0: self._new_choice(0)}
        self._has_several = False

    def chunk(self, event: AnswerEvent, now_ns: int) -> bytes:
        """The events that `event` becomes; Finished and Failed end with [DONE]."""
        if isinstance(event, OfChoice):
            self._has_several = True
            if event.index not in self._choices:
                self._choices[event.index] = self._new_choice(event.index)
            return self._choices[event.index].chunk(event.event, now_ns)
        if isinstance(event, Failed):
            return sse(error_body(event)) + DONE
        if not isinstance(event, Finished):
            return self._choices[0].chunk(event, now_ns)
        last = b"" if self._has_several else self._choices[0].chunk(event, now_ns)
        usage = b""
        if self._include_usage:
            usage = sse(self._head + b',"choices":[],"usage":' + to_json(usage_object(event)) + b"}")
        return last + usage + DONE

    def whole(self, events: Iterable[AnswerEvent], now_ns: int) -> bytes:
        """The one object of an answer that is not streamed."""
        answers, finished = collect_choices(events)
        return to_json(
            {
                "id": self._common["id"],
                "object": "chat.completion",
                "created": self._common["created"],
                "model": self._common["model"],
                "system_fingerprint": "fp_localllm",
                **self._tier,
                "choices": [_whole_choice(answer, index) for index, answer in enumerate(answers)],
                "usage": usage_object(finished),
            }
        )

    def ping(self) -> bytes:
        """A comment."""
        return SSE_PING

    def error(self, failed: Failed) -> bytes:
        """OpenAI's error object."""
        return error_body(failed)

    def _new_choice(self, index: int) -> _Choice:
        return _Choice(self._head, index, PromptReport() if self._reports_progress else None)


def _whole_choice(answer: Answer, index: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.content}
    if answer.thinking:
        message["reasoning"] = message["reasoning_content"] = answer.thinking
    if answer.tool_calls:
        message["content"] = answer.content or None
        message["tool_calls"] = [_call(call, place) for place, call in enumerate(answer.tool_calls)]
    reason = _finish_reason(answer.finished or Finished("stop"), has_calls=bool(answer.tool_calls))
    logprobs = _logprobs(answer.logprobs) if answer.logprobs else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def error_body(failed: Failed, param: str | None = None) -> bytes:
    """{"error": {"message", "type", "param", "code"}} and, where there is one, our hint."""
    error = {
        "message": failed.message,
        "type": _ERROR_TYPES.get(failed.status, "api_error"),
        "param": param,
        "code": ERROR_CODES.get(failed.code, failed.code),
    }
    if failed.hint:
        error["hint"] = failed.hint
    return to_json({"error": error})


def _logprobs(logprobs: Iterable[TokenLogprob]) -> dict[str, Any]:
    return {"content": token_logprobs(logprobs), "refusal": None}


def _finish_reason(event: Finished, *, has_calls: bool) -> str:
    if event.reason == "length":
        return "length"
    return "tool_calls" if has_calls or event.reason == "tool_calls" else "stop"


def _call_delta(event: ToolCallDelta) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": event.arguments}
    if event.name is None and event.id is None:
        return {"index": event.index, "function": function}
    function = {"name": event.name, **function}
    return {"index": event.index, "id": event.id, "type": "function", "function": function}


def _call(call: ToolCall, index: int) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "index": index, "type": "function", "function": function}


def usage_object(event: Finished) -> dict[str, Any]:
    """OpenAI's object, with our notes."""
    usage = event.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        **({"completion_tokens_details": {"reasoning_tokens": usage.thinking_tokens}} if usage.thinking_tokens else {}),
        **our_notes(event),
    }


def our_notes(event: Finished) -> dict[str, Any]:
    """What concerns only us, under "localllm"; nothing when there is nothing to say."""
    ours = {
        "cache_miss": event.cache_miss,
        "dropped_messages": event.dropped_messages,
        "dropped_tokens": event.dropped_tokens,
        "unfinished_tool_call": event.unfinished_tool_call,
        "drafted_tokens": event.usage.drafted_tokens,
        "accepted_tokens": event.usage.accepted_tokens,
    }
    ours = {name: value for name, value in ours.items() if value}
    return {"localllm": ours} if ours else {}
