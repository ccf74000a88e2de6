"""A model that another tool holds, and one that it holds without being of use here. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from localllm.pulling import PulledSettings


@dataclass(frozen=True, slots=True)
class Found:
    """`name` is NAME:TAG as localllm would call it; `files` the model's file or, in order, its parts.

    `what` is the tool's own name for it. `settings` are what the tool keeps beside the file, `remarks` what of it has
    no effect here. `adapters` change the weights.
    """

    name: str
    what: str
    files: tuple[Path, ...]
    projector: Path | None = None
    settings: PulledSettings | None = None
    remarks: tuple[str, ...] = ()
    adapters: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Unusable:
    """What was looked at and left aside. `what` is the tool's own name for it, or a file's path."""

    what: str
    reason: str


Finding = Found | Unusable
