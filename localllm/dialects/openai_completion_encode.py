"""Events as OpenAI's older completions: server-sent events, or one object for all of it.

    data: {"id", "object": "text_completion", "created", "model", "choices": [{"index", "text", "logprobs",
           "finish_reason": null}]}
    data: {…, "choices": [{"text": "", "finish_reason": "stop" | "length"}]}      the last of each choice
    data: {…, "choices": [], "usage"}                       only with stream_options.include_usage
    data: {"error": {"message", "type", "param", "code"}}   instead, when it failed
    data: [DONE]

Logprobs have a shape of their own here: parallel arrays, with the places of the tokens in the choice's text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from localllm.dialects.framing import (
    NANOSECONDS,
    SSE_MEDIA_TYPE,
    SSE_PING,
    Answer,
    collect_choices,
    sse,
    to_json,
)
from localllm.dialects.openai_encode import DONE, error_body, usage_object
from localllm.generation import AnswerEvent, ContentDelta, Failed, Finished, OfChoice, PromptProgress, TokenLogprob


@dataclass(frozen=True, slots=True)
class Shape:
    """What was asked for: of `candidates` texts per prompt the best `answers` are told, with logprobs or without."""

    include_usage: bool = False
    candidates: int = 1
    answers: int = 1
    shows_logprobs: bool = False


class CompletionEncoder:
    """One answer to /v1/completions. `id` is unique; `model` is the name as the client wrote it."""

    media_type = SSE_MEDIA_TYPE

    def __init__(self, id: str, model: str, created_ns: int, shape: Shape) -> None:
        self._common = {
            "id": id,
            "object": "text_completion",
            "created": created_ns // NANOSECONDS,
            "model": model,
            "system_fingerprint": "fp_localllm",
        }
        self._shape = shape
        self._bytes_before: dict[int, bytes] = {}  # of each choice's tokens, for the places of the next
        self._has_several = False

    def chunk(self, event: AnswerEvent, now_ns: int) -> bytes:
        """The events that `event` becomes; Finished and Failed end with [DONE]."""
        if isinstance(event, OfChoice):
            self._has_several = True
            return self._of_choice(event.index, event.event)
        if isinstance(event, Failed):
            return sse(error_body(event)) + DONE
        if isinstance(event, Finished):
            last = b"" if self._has_several else self._of_choice(0, event)
            usage = self._object([], usage_object(event)) if self._shape.include_usage else b""
            return last + usage + DONE
        return self._of_choice(0, event)

    def whole(self, events: Iterable[AnswerEvent], now_ns: int) -> bytes:
        """The one object of an answer that is not streamed."""
        answers, finished = collect_choices(events)
        size, wanted = self._shape.candidates, self._shape.answers
        best = [
            answer
            for start in range(0, len(answers), size)
            for answer in _likeliest(answers[start : start + size], wanted)
        ]
        choices = [
            _choice(
                index,
                answer.content,
                self._logprobs([*answer.prompt_logprobs, *answer.logprobs], b""),
                _reason(answer.finished),
            )
            for index, answer in enumerate(best)
        ]
        return to_json({**self._common, "choices": choices, "usage": usage_object(finished)})

    def ping(self) -> bytes:
        """A comment."""
        return SSE_PING

    def error(self, failed: Failed) -> bytes:
        """OpenAI's error object."""
        return error_body(failed)

    def _of_choice(self, index: int, event: AnswerEvent) -> bytes:
        if isinstance(event, ContentDelta) or (isinstance(event, PromptProgress) and event.logprobs):
            text = event.text if isinstance(event, ContentDelta) else ""  # a prompt's text was told in one piece
            before = self._bytes_before.get(index, b"")
            self._bytes_before[index] = before + b"".join(one.data for one in event.logprobs)
            return self._object([_choice(index, text, self._logprobs(event.logprobs, before), None)])
        if isinstance(event, Finished):
            return self._object([_choice(index, "", None, _reason(event))])
        return b""

    def _object(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        return sse(to_json({**self._common, "choices": choices, **({"usage": usage} if usage else {})}))

    def _logprobs(self, logprobs: Sequence[TokenLogprob], before: bytes) -> dict[str, Any] | None:
        return legacy_logprobs(logprobs, before) if self._shape.shows_logprobs and logprobs else None


def legacy_logprobs(logprobs: Sequence[TokenLogprob], before: bytes) -> dict[str, Any]:
    """Parallel arrays; `text_offset` counts characters of the text, which begins with the bytes `before`."""
    offsets = []
    for one in logprobs:
        offsets.append(len(before.decode("utf-8", "ignore")))
        before += one.data
    return {
        "tokens": [_text(one) for one in logprobs],
        "token_logprobs": [one.logprob for one in logprobs],
        "top_logprobs": [_top(one) for one in logprobs],
        "text_offset": offsets,
    }


def _top(one: TokenLogprob) -> dict[str, float | None] | None:
    """The likeliest tokens in its place; of two with the same text the likelier counts."""
    if one.logprob is None:
        return None
    likeliest: dict[str, float | None] = {}
    for other in one.top:
        likeliest.setdefault(_text(other), other.logprob)
    return likeliest


def _text(one: TokenLogprob) -> str:
    """A token that is only part of a character is written as its bytes, as OpenAI does."""
    try:
        return one.data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in one.data)


def _likeliest(answers: list[Answer], count: int) -> list[Answer]:
    """The `count` answers with the highest mean logprob of their tokens; all of them stay in their order."""
    if count >= len(answers):
        return answers
    return sorted(answers, key=_mean_logprob, reverse=True)[:count]


def _mean_logprob(answer: Answer) -> float:
    known = [one.logprob for one in answer.logprobs if one.logprob is not None]
    return sum(known) / len(known) if known else float("-inf")


def _choice(index: int, text: str, logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _reason(finished: Finished | None) -> str:
    return "length" if finished is not None and finished.reason == "length" else "stop"
