"""What may be tuned about the engine: one frozen value that it hands down to whoever decides by it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EnginePolicy:
    """What may be tuned. `stretch` bounds how much slower a stream gets while another's prompt is computed.

    `saved_bytes_most` is host memory for the states of preempted sequences, `shelf_bytes_most` for idle prefixes
    (those with `shelf_tokens_least` cells of their own go there as soon as others run). `layout_change_pays` times as
    long as a change of layout took the layout stays, unless a request cannot run in it.
    """

    stretch: float = 2.0
    saved_bytes_most: int = 2**31
    shelf_bytes_most: int = 2**30
    shelf_tokens_least: int = 256
    layout_change_pays: float = 20.0
    keeps_prefixes: bool = True
    speculates: bool = True
