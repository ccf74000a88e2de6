"""Events as llama-server's completions: server-sent events, or one object (an array for several prompts).

    data: {"index", "content", "tokens": [], "stop": false, "tokens_predicted", "tokens_evaluated"}    per piece of text
    data: {"index", "content": "", "stop": true, "stop_type", "stopping_word", "truncated", "timings", …}      the last
    data: {"error": {"code", "message", "type"}}                                  instead of the last, when it failed

With `return_progress` objects without text come first, with a `prompt_progress`. With `timings_per_token` each piece
has the `timings` of what was generated since the first; those of the prompt are known at the end. With `return_tokens`
the last object has the ids of all tokens. With `response_fields` it is cut down to the values at those paths
("timings/prompt_n"), under the paths as keys. What a client asks of slots (`id_slot`) has no counterpart: it is -1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from localllm.dialects.body import Decoded
from localllm.dialects.framing import (
    NANOSECONDS,
    SSE_MEDIA_TYPE,
    SSE_PING,
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
    GenerationRequest,
    OfChoice,
    PromptProgress,
    TokenLogprob,
)

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    503: "unavailable_error",
}
_THEIR_NAMES = {"num_predict": "n_predict", "num_keep": "n_keep"}
_MILLISECONDS = 1000


class LlamaCppEncoder:
    """One answer to /completion or /infill, to one prompt or several."""

    media_type = SSE_MEDIA_TYPE

    def __init__(self, asked: Decoded) -> None:
        self._asked = asked
        self._requests = asked.choices or (asked.request,)
        places = range(len(self._requests))
        self._reports = {place: PromptReport() for place in places} if asked.reports_progress else {}
        self._began_ns: dict[int, int] = {}  # when each had its first piece
        self._prompt_tokens = dict.fromkeys(places, 0)
        self._pieces = dict.fromkeys(places, 0)
        self._has_line: dict[int, bool] = {}

    def chunk(self, event: AnswerEvent, now_ns: int) -> bytes:
        """The event that `event` becomes; those of Finished and Failed are the last."""
        if isinstance(event, OfChoice):
            return self._of_choice(event.index, event.event, now_ns)
        if isinstance(event, Failed):
            return b"data: " + error_body(event) + b"\n\n"
        if isinstance(event, Finished) and len(self._requests) > 1:
            return b""  # each prompt has had its own
        return self._of_choice(0, event, now_ns)

    def whole(self, events: Iterable[AnswerEvent], now_ns: int) -> bytes:
        """The one object of an answer that is not streamed, or the array of several."""
        answers, finished = collect_choices(events)
        objects = [
            self._last(index, answer.finished or finished, answer.content, answer.logprobs, "\n" in answer.content)
            for index, answer in enumerate(answers)
        ]
        return to_json(objects if len(self._requests) > 1 else objects[0])

    def ping(self) -> bytes:
        """A comment."""
        return SSE_PING

    def error(self, failed: Failed) -> bytes:
        """llama-server's error object."""
        return error_body(failed)

    def _of_choice(self, index: int, event: Event, now_ns: int) -> bytes:
        report = self._reports.get(index)
        if isinstance(event, PromptProgress):
            self._prompt_tokens[index] = event.prompt_tokens
            return self._progress(index, report.step(event, now_ns)) if report else b""
        before = report.end(now_ns) if report else None
        return (self._progress(index, before) if before else b"") + self._said(index, event, now_ns)

    def _progress(self, index: int, progress: dict[str, Any]) -> bytes:
        return sse(to_json({**self._piece(index, ContentDelta("")), "prompt_progress": progress}))

    def _said(self, index: int, event: Event, now_ns: int) -> bytes:
        if isinstance(event, ContentDelta):
            self._pieces[index] += 1
            self._has_line[index] = self._has_line.get(index, False) or "\n" in event.text
            return sse(to_json(self._piece(index, event) | self._timings(index, now_ns)))
        if isinstance(event, Finished):
            return sse(to_json(self._last(index, event, "", (), self._has_line.get(index, False))))
        return b""

    def _timings(self, index: int, now_ns: int) -> dict[str, Any]:
        """Of what has been generated so far."""
        if not self._asked.reports_timings:
            return {}
        seconds = (now_ns - self._began_ns.setdefault(index, now_ns)) / NANOSECONDS
        return {"timings": _speed("predicted", self._pieces[index], seconds)}

    def _piece(self, index: int, event: ContentDelta) -> dict[str, Any]:
        piece: dict[str, Any] = {
            "index": index,
            "content": event.text,
            "tokens": [],
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": self._pieces[index],
            "tokens_evaluated": self._prompt_tokens[index],
        }
        return piece | _probabilities(event.logprobs)

    def _last(
        self, index: int, finished: Finished, content: str, logprobs: Sequence[TokenLogprob], has_line: bool
    ) -> dict[str, Any]:
        request, usage = self._requests[index], finished.usage
        last: dict[str, Any] = {
            "index": index,
            "content": content,
            "tokens": finished.context[usage.prompt_tokens :],
            "id_slot": -1,
            "stop": True,
            "model": request.model,
            "tokens_predicted": usage.completion_tokens,
            "tokens_evaluated": usage.prompt_tokens,
            "tokens_cached": usage.prompt_tokens + usage.completion_tokens,
            "generation_settings": _settings(request),
            "prompt": self._prompt(index),
            "has_new_line": has_line,
            "truncated": finished.dropped_tokens > 0,
            "stop_type": _stop_type(finished),
            "stopping_word": finished.stop_text or "",
            "timings": timings_object(finished),
            **_probabilities(logprobs),
        }
        return _at_paths(last, self._asked.response_fields) if self._asked.response_fields else last

    def _prompt(self, index: int) -> str | Sequence[str | int] | None:
        """The prompt as it was sent."""
        request = self._requests[index]
        return self._asked.mixed_prompts.get(index) or request.prompt_tokens or request.prompt


def timings_object(finished: Finished) -> dict[str, float]:
    """What was computed of the prompt and generated, and how fast."""
    usage, timings = finished.usage, finished.timings
    computed = usage.prompt_tokens - usage.cached_tokens
    return {
        "cache_n": usage.cached_tokens,
        **_speed("prompt", computed, timings.prefill_seconds),
        **_speed("predicted", usage.completion_tokens, timings.decode_seconds),
        **(
            {"draft_n": usage.drafted_tokens, "draft_n_accepted": usage.accepted_tokens} if usage.drafted_tokens else {}
        ),
    }


def error_body(failed: Failed) -> bytes:
    """{"error": {"code", "message", "type"}} and, where there is one, our hint."""
    kind = _ERROR_TYPES.get(failed.status, "server_error")
    error: dict[str, Any] = {"code": failed.status, "message": failed.message, "type": kind}
    if failed.hint:
        error["hint"] = failed.hint
    return to_json({"error": error})


def _speed(name: str, tokens: int, seconds: float) -> dict[str, float]:
    milliseconds = seconds * _MILLISECONDS
    return {
        f"{name}_n": tokens,
        f"{name}_ms": milliseconds,
        f"{name}_per_token_ms": milliseconds / tokens if tokens else 0.0,
        f"{name}_per_second": tokens / seconds if seconds else 0.0,
    }


def _stop_type(finished: Finished) -> str:
    if finished.reason == "length":
        return "limit"
    return "eos" if finished.stop_text is None else "word"


def _settings(request: GenerationRequest) -> dict[str, Any]:
    """The options that the client set; what it left out is the Modelfile's or the default."""
    said: dict[str, Any] = msgspec.to_builtins(request.options)
    return {_THEIR_NAMES.get(name, name): value for name, value in said.items()}


def _probabilities(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"completion_probabilities": token_logprobs(logprobs)} if logprobs else {}


def _at_paths(value: dict[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """The values at `paths` of names with slashes between them; a path that leads nowhere is left out."""
    found: dict[str, Any] = {}
    for path in paths:
        current: Any = value
        for name in path.split("/"):
            if not isinstance(current, dict) or name not in current:
                break
            current = current[name]
        else:
            found[path] = current
    return found
