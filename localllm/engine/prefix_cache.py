"""What lies in the slots, and which of it a new prompt can use: pure decisions over token arrays.

A slot's content stays when its request ends: an idle prefix, until room is needed. A new prompt is compared with all of
them, running and idle, and takes over the longest run of equal tokens. Where one running request is still computing
tokens that a waiting one begins with too, the waiting one waits for them: computing them twice would slow both.

How much of a match can be used depends on the kind of memory (see `memory`). Effects are `pool`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from localllm.engine.backend import MemoryTraits, State
from localllm.engine.memory import Usable, usable
from localllm.engine.tokens import TokenArray, Tokens, common_prefix

LEAST_SHARED_TOKENS = 32  # waiting for fewer than these costs more than computing them
SHARE_WORTH = 16  # a prefix that one more request used is kept as if it had been used so many requests later
SHARES_COUNTED = 8


@dataclass(slots=True, eq=False)
class Resident:
    """The content of one slot: `computed` of `tokens` lie in its cells. It is active while a request runs on it.

    `request_id` is the last request that ran on it, `last_used` counts admissions, `shares` requests that took from it.
    `checkpoints` are saved states by length, for memories that cannot trim. A shifted one holds tokens at positions of
    others and is no prefix of anything.
    """

    slot: int
    tokens: TokenArray
    request_id: int
    computed: int = 0
    prompt_length: int = 0
    is_active: bool = True
    last_used: int = 0
    shares: int = 0
    is_shifted: bool = False
    checkpoints: dict[int, State] = field(default_factory=dict)
    lowest_position: int = 0

    @property
    def computed_tokens(self) -> Tokens:
        """What other requests could take over."""
        return self.tokens.view(0, 0 if self.is_shifted else self.computed)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a prompt's first `usable.length` tokens come from. `nearest` agreed with it for `matched` tokens, the most
    of all, whether or not these could be used."""

    resident: Resident | None = None
    usable: Usable = field(default_factory=Usable)
    nearest: Resident | None = None
    matched: int = 0

    @property
    def length(self) -> int:
        """Tokens that need not be computed."""
        return self.usable.length

    @property
    def kept(self) -> Resident | None:
        """What must stay for this prompt. All texts begin a bit alike: a few tokens are no use of what they are in."""
        return self.resident if self.length >= LEAST_SHARED_TOKENS else None


@dataclass(frozen=True, slots=True)
class Pending:
    """A prefix that request `request_id` will have computed soon in `resident`: the first `length` tokens."""

    resident: Resident
    request_id: int
    length: int

    @property
    def is_ready(self) -> bool:
        """Whether waiting is over: it is computed, or never will be."""
        is_here = self.resident.is_active and self.resident.request_id == self.request_id
        return not is_here or self.resident.computed >= self.length


def find_source(prompt: Tokens, residents: Iterable[Resident], traits: MemoryTraits) -> Source:
    """The longest usable prefix of `prompt`. The last token is always computed anew: its logits are wanted."""
    wanted = prompt[:-1]
    best = Source()
    for resident in residents:
        matched = common_prefix(wanted, resident.computed_tokens)
        nearest, longest = (resident, matched) if matched > best.matched else (best.nearest, best.matched)
        can_use = usable(matched, resident.computed, resident.checkpoints, resident.lowest_position, traits)
        # Of equal ones an idle one that ends there: it can be taken over as it is.
        is_better = (can_use.length, _is_whole(resident, can_use)) > (
            best.length,
            best.resident is not None and _is_whole(best.resident, best.usable),
        )
        if is_better:
            best = Source(resident, can_use, nearest, longest)
        elif longest > best.matched:
            best = Source(best.resident, best.usable, nearest, longest)
    return best


def _is_whole(resident: Resident, can_use: Usable) -> bool:
    return not resident.is_active and can_use.length == resident.computed


def find_pending(prompt: Tokens, residents: Iterable[Resident], have: int) -> Pending | None:
    """The prefix worth waiting for: longer than what there is (`have`) by LEAST_SHARED_TOKENS; or None."""
    wanted = prompt[:-1]
    best: Pending | None = None
    for resident in residents:
        if not resident.is_active or resident.is_shifted or resident.computed >= resident.prompt_length:
            continue
        length = common_prefix(wanted, resident.tokens.view(0, resident.prompt_length))
        is_worth_it = length >= have + LEAST_SHARED_TOKENS and length > resident.computed
        if is_worth_it and (best is None or length > best.length):
            best = Pending(resident, resident.request_id, length)
    return best


def eviction_order(residents: Iterable[Resident]) -> list[Resident]:
    """The idle ones, first to go first: least recently used; one that several requests used is worth more."""
    idle = [resident for resident in residents if not resident.is_active]
    return sorted(idle, key=lambda one: one.last_used + SHARE_WORTH * min(one.shares, SHARES_COUNTED))


def subsumed(resident: Resident, residents: Iterable[Resident]) -> list[Resident]:
    """The idle ones whose tokens are all the beginning of `resident`: nobody needs them beside it."""
    mine = resident.computed_tokens
    return [
        one
        for one in residents
        if one is not resident
        and not one.is_active
        and one.computed <= len(mine)
        and common_prefix(one.computed_tokens, mine) == one.computed
    ]
