"""Carry a create out, step by step: find the base, write its weights anew if that is wanted, then the manifest.

    parsing GGUF ─▶ [quantizing F16 model to Q4_K_M …] ─▶ writing manifest ─▶ success

The name is visible once everything is there; whoever stops in between leaves what the name stood for before.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import ParamSpec, Protocol, TypeVar

from localllm.creating import SUCCESS, CreateEvent, Creation
from localllm.errors import UnsupportedError
from localllm.modelfile import Modelfile
from localllm.pulling import PullStatus
from localllm.store.manifest import Manifest
from localllm.store.model import Model

P = ParamSpec("P")
T = TypeVar("T")


class CreatingStore(Protocol):
    """What a create needs of store.Store."""

    def base(self, creation: Creation) -> Manifest: ...
    def create(self, base: Manifest, settings: Modelfile) -> Model: ...


class InStore(Protocol):
    """Runs a method of the store where that may touch the disk."""

    async def __call__(self, work: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T: ...


async def create(store: CreatingStore, in_store: InStore, creation: Creation) -> AsyncGenerator[CreateEvent, None]:
    """The events of one create; the last is SUCCESS. Raises what Store.base does, and UnsupportedError."""
    refuse_unsupported(creation.settings)
    yield PullStatus("parsing GGUF")
    base = await in_store(store.base, creation)
    yield PullStatus("writing manifest")
    await in_store(store.create, base, creation.settings)
    yield SUCCESS


def refuse_unsupported(settings: Modelfile) -> None:
    """Raises UnsupportedError for what would make another model than the one that is asked for."""
    if settings.adapters:
        raise UnsupportedError(
            f"ADAPTER {settings.adapters[0]}: adapters are not supported yet",
            hint="merge it into the model with llama.cpp's llama-export-lora, and name the result in FROM",
        )
    if len(settings.bases) > 1:
        raise UnsupportedError(
            f"a second FROM ({settings.bases[1]}) is not supported yet", hint="leave one FROM: the model itself"
        )
