"""Broken adapters against our check of them and, those that it accepts, against llama.cpp: campaign.py with adapters.

seeds = write_adapters(models, folder)      one for each model: it changes all that llama.cpp applies one to
AdapterCampaign(seeds, folder, models=…).run(numbers)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from adapters import write_adapter
from gguf_fuzz.campaign import Campaign, Loader
from gguf_fuzz.document import Document
from gguf_fuzz.mutations import mutated

from localllm.gguf import TensorInfo, read_header
from localllm.gguf_adapters import check_adapter

_UNUSED = re.compile(r"changes (.*?)(?: and \d+ more)?, which this architecture computes without adapters")


def write_adapters(models: Sequence[Path], folder: Path) -> list[Path]:
    """An adapter for each model, under the model's name."""
    folder.mkdir(parents=True, exist_ok=True)
    with Loader() as loader:
        return [_largest(model, folder / model.name, loader) for model in models]


def _largest(model: Path, target: Path, loader: Loader) -> Path:
    """The adapter that changes as much as llama.cpp applies, which says itself what it does not."""
    changed = {tensor.name for tensor in read_header(model).tensors if _is_matrix(tensor)}
    while True:
        write_adapter(target, model, changes=partial(_is_among, changed))
        found = _UNUSED.search(str(loader.load(model, target).get("said", "")))
        if found is None:
            return target
        changed -= set(found[1].split(", "))


def _is_among(names: set[str], tensor: TensorInfo) -> bool:
    return tensor.name in names


def _is_matrix(tensor: TensorInfo) -> bool:
    if tensor.name == "token_embd.weight":
        return False  # its pair is spelled otherwise
    return len(tensor.shape) in (2, 3) and not tensor.name.startswith(("position_embd", "token_types"))


@dataclass
class AdapterCampaign(Campaign):
    """`models` are by the stem of their adapter's file."""

    models: dict[str, Path] = field(default_factory=dict)

    def write(self, number: int, seed: tuple[str, bytes, Document]) -> tuple[list[Path], str]:
        """Write file `number`."""
        changed, what = mutated(seed[2], seed[1], Random(number))
        path = self.folder / "adapter.gguf"
        path.write_bytes(changed)
        return [path], what

    def accept(self, paths: Sequence[Path], seed: str) -> None:
        """What an adapter of that seed's model must pass. Raises ModelFileError."""
        for path in paths:
            check_adapter(read_header(path), read_header(self.models[seed]), path)

    def load(self, paths: Sequence[Path], seed: str, loader: Loader) -> dict[str, object]:
        """The child's answer to the model with the adapter."""
        return loader.load(self.models[seed], *paths)


def campaign(models: Sequence[Path], folder: Path) -> AdapterCampaign:
    """A campaign with an adapter of each model, in a folder of its own."""
    seeds = write_adapters(models, folder / "adapters")
    return AdapterCampaign(seeds, folder, models={model.stem: model for model in models})
