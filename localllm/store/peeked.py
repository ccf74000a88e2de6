"""What the process that looks at a model before it is downloaded answers: store/peek finds it out, the daemon reads it.

Apart from store/peek, which brings huggingface_hub with it: a third of a second, and memory, of every daemon's start.
"""

from __future__ import annotations

import msgspec

from localllm.generation import Options
from localllm.placement.estimate import Estimate

NOTHING_SAID = Options()


class Size(msgspec.Struct, frozen=True):
    """Another quantisation that can be had, and its bytes."""

    label: str
    size_bytes: int


class Peeked(msgspec.Struct, frozen=True, tag="peeked"):
    """What is known of a model that is not here: `quant` of `title`. `others` are its other quantisations; `options`
    its registry's."""

    repository: str
    quant: str
    title: str
    size_bytes: int
    estimate: Estimate
    is_embedding_model: bool = False
    others: tuple[Size, ...] = ()
    remarks: tuple[str, ...] = ()
    options: Options = NOTHING_SAID
