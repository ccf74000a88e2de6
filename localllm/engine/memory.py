"""What a kind of memory allows: how much of a matching prefix can be taken over, and where to save the way back.

    attention   any prefix
    window      a prefix whose last `window_tokens` are still there, or one that ends at a checkpoint
    recurrent   everything the slot holds, or a prefix that ends at a checkpoint (hybrids: the same)

A checkpoint is a saved state at one length. They are taken where a later prompt is likely to part from this one: where
messages begin, and where another prompt has parted already. Pure; the kind is read from the model, never from a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from localllm.engine.backend import MemoryTraits, State

CHECKPOINTS_PER_PROMPT = 3
CHECKPOINT_DISTANCE_TOKENS = 16  # nearer ones save less than they cost


@dataclass(frozen=True, slots=True)
class Usable:
    """The first `length` tokens can be taken over, by rewinding to `checkpoint` if there is one."""

    length: int = 0
    checkpoint: State | None = None


def usable(
    matched: int, computed: int, checkpoints: Mapping[int, State], lowest_position: int, traits: MemoryTraits
) -> Usable:
    """How much of a match of `matched` tokens with a slot that holds `computed` can be used."""
    if matched == computed or traits.kind == "attention":
        return Usable(matched)
    if traits.kind == "window" and lowest_position <= max(0, matched - traits.window_tokens):
        return Usable(matched)
    length = max((length for length in checkpoints if length <= matched), default=0)
    return Usable(length, checkpoints[length]) if length else Usable()


def takes_back(traits: MemoryTraits) -> bool:
    """Whether a few tokens just computed can be taken out again, as wrong guesses must be.

    A window has let go of what they pushed out of it only when it holds hardly more than it looks back.
    """
    return traits.kind != "recurrent"


def copies_whole(traits: MemoryTraits) -> bool:
    """Whether a slot can only be copied whole, and is then rewound."""
    return traits.kind != "attention"


def needs_checkpoints(traits: MemoryTraits) -> bool:
    """Whether the way back must be saved."""
    return traits.kind == "recurrent" or (traits.kind == "window" and not traits.keeps_whole_window)


def checkpoint_lengths(message_starts: Sequence[int], prompt_length: int) -> frozenset[int]:
    """Where to save a prompt's state: the end of what comes before the first question, and the last message starts.

    `message_starts` are positions of the prompt, rising. The state is saved before the token at that position.
    """
    chosen: list[int] = []
    for length in (*reversed(message_starts), prompt_length - 1):
        is_apart = all(abs(length - other) >= CHECKPOINT_DISTANCE_TOKENS for other in chosen)
        if is_apart and CHECKPOINT_DISTANCE_TOKENS <= length < prompt_length:
            chosen.append(length)
    most = CHECKPOINTS_PER_PROMPT
    return frozenset(chosen if len(chosen) <= most else [*chosen[: most - 1], min(chosen)])
