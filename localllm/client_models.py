"""What the client is told of a model by `list`, `ps` and `show`. Bytes; what an older daemon leaves out is empty.

Unknown fields are ignored: a newer daemon may say more.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec


class Details(msgspec.Struct, frozen=True):
    """What a model file is: the words of `list`, `ps` and `show`."""

    format: str = ""
    family: str = ""
    families: tuple[str, ...] | None = None
    parameter_size: str = ""
    quantization_level: str = ""
    context_length: int | None = None


class TensorSummary(msgspec.Struct, frozen=True):
    """One tensor of a model file; `shape` as the file has it."""

    name: str
    type: str
    shape: tuple[int, ...]


class ProjectorInfo(msgspec.Struct, frozen=True):
    """The file that reads images for a model; `size` 0 when it is gone. `info` is its metadata."""

    file: str = ""
    size: int = 0
    is_used: bool = False
    info: dict[str, Any] | None = None


class AdapterInfo(msgspec.Struct, frozen=True):
    """One adapter of a model. It changes so many `matrices`, by `alpha` / `rank`; an `alpha` of 0 is by 1."""

    file: str = ""
    size: int = 0
    rank: int = 0
    alpha: float = 0.0
    matrices: int = 0


class DraftInfo(msgspec.Struct, frozen=True):
    """What the Modelfile names as a draft model: `said` there, and the file that was found."""

    file: str = ""
    said: str = ""
    size: int = 0
    is_used: bool = False


class ModelInfo(msgspec.Struct, frozen=True):
    """Everything `show` knows. `model_info` is the file's own metadata, as JSON values."""

    license: str | None = None
    modelfile: str | None = None
    parameters: str | None = None
    template: str | None = None
    system: str | None = None
    details: Details = Details()
    model_info: dict[str, Any] | None = None
    tensors: tuple[TensorSummary, ...] | None = None
    capabilities: tuple[str, ...] | None = None
    modified_at: datetime | None = None
    projector: ProjectorInfo | None = None
    adapters: tuple[AdapterInfo, ...] = ()
    draft: DraftInfo | None = None
