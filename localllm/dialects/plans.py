"""POST /api/plan: the body, in the words of a Modelfile and of Ollama's options; a dialect of ours alone.

{"model", "options": {"num_ctx", "num_gpu", …}, "parameters": {"cache_type_k", "cpu_moe", …}, "quant",
 "devices": {…a device file…}}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from localllm.dialects.body import read
from localllm.errors import InvalidFieldError
from localllm.generation import Options, parse_options
from localllm.load_options import ALSO_CALLED, LoadOptions, parse_load_option


class _Body(msgspec.Struct):
    model: str | None = None
    name: str | None = None
    options: dict[str, Any] | None = None
    parameters: dict[str, Any] | None = None
    quant: str | None = None
    devices: msgspec.Raw = msgspec.Raw()


@dataclass(frozen=True, slots=True)
class PlanQuestion:
    """What is asked: how would this model lie, with this said over its Modelfile? `devices` is a device file's JSON,
    empty for this machine; `quant` which file of a repository, "" the usual one."""

    name: str
    options: Options
    load: LoadOptions
    quant: str = ""
    devices: bytes = b""


_decoder = msgspec.json.Decoder(_Body)
# What is read where, for the document of the API.
BODIES: dict[str, type[msgspec.Struct]] = {"/api/plan": _Body}


def decode_plan(body: bytes) -> PlanQuestion:
    """Read the body. Raises BadRequestError's kinds."""
    fields = read(body, _decoder)
    name = fields.model or fields.name or ""
    if not name:
        raise InvalidFieldError("model is required", field="model")
    options, unknown = parse_options(fields.options or {})
    if unknown:
        raise InvalidFieldError(f"unknown option '{unknown[0]}'", field="options")
    devices = bytes(fields.devices)
    return PlanQuestion(
        name,
        options,
        _load_options(fields.parameters or {}),
        fields.quant or "",
        b"" if devices == b"null" else devices,
    )


def _load_options(values: dict[str, Any]) -> LoadOptions:
    found: dict[str, Any] = {}
    for name, value in values.items():
        names = ALSO_CALLED.get(name, (name,))
        if not set(names) <= set(LoadOptions.__struct_fields__):
            there = ", ".join((*LoadOptions.__struct_fields__, *ALSO_CALLED))
            raise InvalidFieldError(f"unknown parameter '{name}'", field="parameters", hint=f"there are {there}")
        found |= {one: parse_load_option(one, value) for one in names}
    return LoadOptions(**found)
