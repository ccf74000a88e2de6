"""POST /api/pull in Ollama's words: the body, and a line per event; a create's events too.

    {"status": "pulling manifest"} · {"status": "pulling <12 hex>", "digest", "total", "completed"} · … · "success"
    {"status": "parsing GGUF"} · {"status": "quantizing F16 model to Q4_K_M", "total", "completed"} · … · "success"

Ours besides: `limit_rate` in the body ("5M", or bytes per second as a number) and `quant` ("Q8_0", or "auto" for the
largest that fits this machine), `file` beside a digest, and lines whose status says what was chosen. `insecure` is read
and means nothing: HF_ENDPOINT and LOCALLLM_REGISTRY alone say where models come from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from localllm.creating import CreateProgress
from localllm.dialects.body import ignored_names, read
from localllm.dialects.framing import to_json
from localllm.dialects.ollama_encode import error_body
from localllm.errors import InvalidFieldError, InvalidNameError
from localllm.generation import Failed
from localllm.pulling import PullEvent, PullProgress, PullStatus
from localllm.sizes import parse_size

SUCCESS = "success"
_QUANT = re.compile(r"[A-Za-z0-9_.-]{0,80}", re.ASCII)
Progress = PullEvent | CreateProgress


class _Body(msgspec.Struct):
    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    insecure: bool | None = None
    limit_rate: int | str | None = None
    quant: str | None = None


@dataclass(frozen=True, slots=True)
class PullBody:
    """What is asked. `limit_bytes_per_second` 0 is no limit, `quant` "" the usual one; `ignored` changes nothing."""

    name: str
    is_stream: bool
    limit_bytes_per_second: int
    quant: str
    ignored: tuple[str, ...] = ()


_decoder = msgspec.json.Decoder(_Body)
# What is read where, for the document of the API.
BODIES: dict[str, type[msgspec.Struct]] = {"/api/pull": _Body}


def decode_pull(body: bytes) -> PullBody:
    """Read the body. Raises BadRequestError's kinds."""
    fields = read(body, _decoder)
    name = fields.model or fields.name or ""
    if not name:
        raise InvalidNameError("invalid model name", hint="say which model, such as llama3.2")
    ignored = (*ignored_names(body, _Body), *(("insecure",) if fields.insecure else ()))
    return PullBody(name, fields.stream is not False, _limit(fields.limit_rate), _quant(fields.quant), ignored)


def _quant(value: str | None) -> str:
    quant = (value or "").strip()
    if _QUANT.fullmatch(quant) is None:
        raise InvalidFieldError(
            f"quant {quant[:40]!r} is not a quant", field="quant", hint='such as "Q8_0", or "auto" for what fits'
        )
    return quant


def _limit(value: int | str | None) -> int:
    try:
        limit = parse_size(value) if isinstance(value, str) else value or 0
    except ValueError as error:
        raise InvalidFieldError(f"limit_rate: {error}", field="limit_rate") from None
    if limit < 0:
        raise InvalidFieldError("limit_rate must not be negative", field="limit_rate")
    return limit


def encode_event(event: Progress) -> bytes:
    """One line of the stream, without its line break; empty for what clients are not told."""
    if isinstance(event, CreateProgress):
        return to_json({"status": event.text, "total": event.total_bytes, "completed": event.completed_bytes})
    if isinstance(event, PullStatus):
        return to_json({"status": event.text})
    if isinstance(event, PullProgress):
        return to_json(_progress(event))
    return error_body(event) if isinstance(event, Failed) else b""


def _progress(event: PullProgress) -> dict[str, Any]:
    short = event.digest.partition(":")[2][:12]
    line = {"status": f"pulling {short}", "digest": event.digest, "total": event.total_bytes}
    # Ollama leaves out a `completed` of 0.
    return line | ({"completed": event.completed_bytes} if event.completed_bytes else {}) | {"file": event.file}
