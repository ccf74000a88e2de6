"""How each kind of server is asked for a streamed answer, and how its lines are read. Pure.

An answer must have exactly as many tokens as were asked for. Where the vocabulary is known, a bias leaves the model
nothing but a few words to say: no end of the turn, no half character, and a text that has the same tokens when it comes
back as history. Elsewhere `ignore_eos` is sent, which most servers know.

The words are drawn at a temperature that makes all of them likely. At temperature 0 a model of random weights repeats
one word for ever, which an engine that guesses from the text before gets for nothing: no answer that people want.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

TEMPERATURE = 50.0
# Far above what any logit differs by, also divided by the temperature.
BIAS = 5000.0


@dataclass(frozen=True)
class Rule:
    """What answers are made of: these tokens, drawn at this temperature."""

    tokens: tuple[int, ...] = ()
    temperature: float = TEMPERATURE


@dataclass(frozen=True)
class Event:
    """One line of an answer. Counts are None where the line, or the server, tells none."""

    text: str = ""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    error: str | None = None


class Adapter(Protocol):
    """One kind of server. `history` has what was said so far, the client and the model in turns, the client first."""

    kind: str
    path: str

    def body(self, history: Sequence[str], output_tokens: int) -> dict[str, object]:
        """The JSON to send."""

    def read(self, line: bytes) -> Event | None:
        """What a line says; None for one that says nothing."""


def error_text(value: object) -> str:
    """The server's own words, whatever shape they have."""
    if isinstance(value, Mapping):
        return error_text(value.get("error") or value.get("message") or json.dumps(value))
    return str(value)


def count(*places: tuple[Mapping[str, object], str]) -> int | None:
    """The first of these fields that is there."""
    values = (fields.get(name) for fields, name in places)
    return next((int(value) for value in values if isinstance(value, (int, float))), None)


def fields_of(value: object) -> Mapping[str, object]:
    """An object, or an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def cached_of(fields: Mapping[str, object]) -> int | None:
    """Prompt tokens that were not computed again, under any of the names servers give them."""
    usage = fields_of(fields.get("usage"))
    return count(
        (fields_of(fields.get("timings")), "cache_n"),
        (fields_of(usage.get("prompt_tokens_details")), "cached_tokens"),
        (fields, "prompt_cached_count"),
        (fields, "cached_tokens"),
    )


def server_sent(line: bytes) -> object | None:
    """The JSON of a `data:` line; None for every other, also the last one, [DONE]."""
    name, _, text = line.partition(b":")
    if name not in (b"data", b"error") or text.strip() in (b"", b"[DONE]"):
        return None
    value = json.loads(text)
    return {"error": value} if name == b"error" else value


@dataclass(frozen=True)
class Localllm:
    """Our own: POST /api/generate with the prompt as it is."""

    model: str
    rule: Rule
    kind: str = "localllm"
    path: str = "/api/generate"

    def body(self, history: Sequence[str], output_tokens: int) -> dict[str, object]:
        """See Adapter."""
        bias = {str(token): BIAS for token in self.rule.tokens}
        options = {"temperature": self.rule.temperature, "num_predict": output_tokens, "logit_bias": bias}
        return {"model": self.model, "prompt": "".join(history), "raw": True, "options": options}

    def read(self, line: bytes) -> Event | None:
        """See Adapter."""
        fields = json.loads(line)
        if "error" in fields:
            return Event(error=error_text(fields))
        none = 0 if fields.get("done") else None  # the last line leaves out counts that are zero
        cached = cached_of(fields)
        return Event(
            text=str(fields.get("response", "")),
            prompt_tokens=count((fields, "prompt_eval_count")),
            cached_tokens=none if cached is None else cached,
            output_tokens=count((fields, "eval_count")),
        )


@dataclass(frozen=True)
class LlamaServer:
    """llama-server: POST /completion."""

    rule: Rule
    kind: str = "llama-server"
    path: str = "/completion"

    def body(self, history: Sequence[str], output_tokens: int) -> dict[str, object]:
        """See Adapter."""
        return {
            "prompt": "".join(history),
            "n_predict": output_tokens,
            "temperature": self.rule.temperature,
            "stream": True,
            "cache_prompt": True,
            "logit_bias": [[token, BIAS] for token in self.rule.tokens],
        }

    def read(self, line: bytes) -> Event | None:
        """See Adapter."""
        fields = server_sent(line)
        if not isinstance(fields, dict):
            return None
        if "error" in fields:
            return Event(error=error_text(fields))
        timings = fields_of(fields.get("timings"))
        return Event(
            text=str(fields.get("content", "")),
            prompt_tokens=count((fields, "tokens_evaluated")) if fields.get("stop") else None,
            cached_tokens=cached_of(fields),
            output_tokens=count((timings, "predicted_n")),
        )


@dataclass(frozen=True)
class OpenAI:
    """Any server with POST /v1/chat/completions. Its template adds tokens to each message."""

    model: str
    kind: str = "openai"
    path: str = "/v1/chat/completions"

    def body(self, history: Sequence[str], output_tokens: int) -> dict[str, object]:
        """See Adapter."""
        roles = ("user", "assistant")
        messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(history)]
        return {
            "model": self.model,
            "messages": messages,
            "max_tokens": output_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        }

    def read(self, line: bytes) -> Event | None:
        """See Adapter."""
        fields = server_sent(line)
        if not isinstance(fields, dict):
            return None
        if "error" in fields:
            return Event(error=error_text(fields))
        choices = fields.get("choices") or [{}]
        delta, usage = fields_of(choices[0].get("delta")), fields_of(fields.get("usage"))
        parts = (delta.get(name) for name in ("content", "reasoning_content", "reasoning"))
        return Event(
            text="".join(part for part in parts if isinstance(part, str)),
            prompt_tokens=count((usage, "prompt_tokens")),
            cached_tokens=cached_of(fields),
            output_tokens=count((usage, "completion_tokens")),
        )
