"""A create: what is asked, and the events that tell how it goes.

    cli/create or /api/create ── Creation ──▶ store.create ── CreateEvent… ──▶ whoever asked
                                                 ├─ with a template: a process of its own tries it
                                                 ├─ with adapters, or a draft model: a process of its own asks
                                                 │  llama.cpp about them
                                                 └─ with a quantization: a process of its own makes a new file

The last event is SUCCESS; what goes wrong is raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from localllm.generation import Failed
from localllm.modelfile import Modelfile
from localllm.pulling import PullStatus

SUCCESS = PullStatus("success")


@dataclass(frozen=True, slots=True)
class Creation:
    """Make `name` stand for the model `base`, or for `files`, with what `settings` says laid over it.

    Exactly one of `base` (a name) and `files` (absolute paths, the parts of a model in order) is given. With
    `quantization` (a file type such as "Q4_K_M") the weights are written anew in that type. `adapters` are the absolute
    paths of those that `settings` names, `draft` that of its draft model.
    """

    name: str
    settings: Modelfile
    base: str | None = None
    files: tuple[str, ...] = ()
    quantization: str | None = None
    adapters: tuple[str, ...] = ()
    draft: str | None = None


class CreateProgress(msgspec.Struct, frozen=True, tag="progress"):
    """How much of the source's weights is written anew."""

    text: str
    total_bytes: int
    completed_bytes: int


CreateEvent = PullStatus | CreateProgress


class QuantizeRequest(msgspec.Struct, frozen=True):
    """Write the weights of the GGUF `source` to `target` in the type with that number (llama_ftype of llama.h)."""

    source: str
    target: str
    file_type: int


class TensorStarted(msgspec.Struct, frozen=True, tag="tensor"):
    """The tensor of that name is being written."""

    name: str


class Quantized(msgspec.Struct, frozen=True, tag="quantized"):
    """The target is whole."""


QuantizeEvent = TensorStarted | Quantized | Failed


class DraftCheck(msgspec.Struct, frozen=True):
    """Ask llama.cpp whether two models have one vocabulary. Paths are absolute."""

    model: str
    draft: str


class AdapterCheck(msgspec.Struct, frozen=True):
    """Ask llama.cpp whether it applies these adapters to the model, whole. Paths are absolute."""

    model: str
    adapters: tuple[str, ...]


class CheckRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Read this chat template and render a short conversation with it; a `thorough` check tries all it should do."""

    template: str
    thorough: bool = False


class Finding(msgspec.Struct, frozen=True):
    """What one trial of a template showed: "ok", a "note", or a "problem"; of what, and in words."""

    level: Literal["ok", "note", "problem"]
    subject: str
    text: str


class Checked(msgspec.Struct, frozen=True, tag="checked", omit_defaults=True):
    """The template can be used; a thorough check says what it found, which may be problems."""

    findings: tuple[Finding, ...] = ()


CheckEvent = Checked | Failed
