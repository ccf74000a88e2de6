"""Which model is meant by clients of llama-server, which has one: they name none, or any.

A name that is known counts; else it is the only one that is loaded, else the only one besides those that come with
localllm, else the one that comes with it; where that leaves several, the request has to say which. A name that is not
known is told as ignored.
"""

from __future__ import annotations

from typing import Literal

from localllm.errors import InvalidFieldError, ModelFileError, ModelNotFoundError
from localllm.server.services import ModelStore, Services
from localllm.store.model import Model

Capability = Literal["completion", "embedding", "ranking"]
_POOLING_OF_RANKS = 4  # llama_pooling_type of llama.h


async def find(services: Services, name: str, capability: Capability) -> tuple[Model, tuple[str, ...]]:
    """The model that is meant, and ("model",) if its name had to be ignored. Raises InvalidFieldError."""
    if name:
        try:
            return await services.find(name), ()
        except ModelNotFoundError:
            model, _ = await find(services, "", capability)
            return model, ("model",)
    able = await services.in_store(_able, services.store, capability)
    loaded = {entry.model.key for entry in services.scheduler.running()}
    for among in (
        [model for model in able if model.key in loaded],
        [model for model in able if not model.is_bundled],
        [model for model in able if model.is_bundled],
    ):
        if len(among) == 1:
            return among[0], ()
        if among:
            names = ", ".join(model.name for model in among)
            raise InvalidFieldError(f"several models are there, say which in `model`: {names}", field="model")
    raise InvalidFieldError(f"no model is there that can do {capability}", field="model", hint="localllm pull MODEL")


def _able(store: ModelStore, capability: Capability) -> list[Model]:
    """The models that can do it: a reranker is an embedding model to those who list models, but it does not embed."""
    if capability == "completion":
        return [model for model in store.list() if capability in model.capabilities]
    embedders = [model for model in store.list() if "embedding" in model.capabilities]
    if len(embedders) < 2:  # the only one is meant, and says itself what it cannot
        return embedders
    return [model for model in embedders if _ranks(store, model) == (capability == "ranking")]


def _ranks(store: ModelStore, model: Model) -> bool:
    try:
        return store.header(model).architecture_integer("pooling_type") == _POOLING_OF_RANKS
    except ModelFileError:  # it cannot be loaded either
        return False
