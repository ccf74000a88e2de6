"""What the next decode computes, and who is served first: pure decisions from how much each sequence has to compute.

Decode rows come first, so that running streams keep flowing. What is left of the step goes to prompts:

    priority class  >  the client that was given least  >  the shortest rest, less what it has waited  >  who came first

Rests of the same order of magnitude are equal: who came first is then done first, and a step goes to few prompts. Parts
of several in one step cost more than one large part (llama.cpp cuts a batch where streams have unlike numbers of rows).

A prompt that arrived while streams were flowing is `late`: it shares the smaller budget that keeps those streams near
their pace (see `pace`). A prompt that was there before them owes them nothing, so a burst of requests is computed in
full batches. In one step of eight the prompt that has waited longest is served first, whatever its class: nobody
starves.

When the pool cannot hold even the decode rows, the newest sequence of the lowest class gives its cells back and goes on
later: a running request is slowed, never failed. The oldest of the highest class always goes on, so everything ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OLDEST_FIRST_EVERY = 8  # steps with prompts
ENOUGH_ROWS = 128  # more in one step hardly make a row cheaper on a CPU
CLIENT_GRAIN_TOKENS = 1024.0  # clients within this are equal: else two prompts would take turns every step
TOKENS_PER_WAITED_SECOND = 200.0  # a long prompt catches up with fresh short ones
SECONDS_PER_CLASS = 20.0  # after so long a waiting request counts as of the next better class


@dataclass(frozen=True, slots=True)
class Claim:
    """Who wants to be served: class (0 is served first), tokens its client was given lately, and its wait."""

    priority: int = 0
    client_tokens: float = 0.0
    waited_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """One active sequence as the planner sees it.

    `to_compute` tokens are to do, at most `most` of them in one step (0: no bound). `cells` are those that only it
    holds. `is_late`: it arrived while others were streaming.
    """

    to_compute: int
    cells: int
    claim: Claim = Claim()
    most: int = 0
    is_late: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """The next `count` tokens of the `index`-th active sequence go into the batch."""

    index: int
    count: int


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Sequences that must give up their cells first, and then the batch. Indices are into what was planned for."""

    preempt: tuple[int, ...]
    shares: tuple[Share, ...]


def service_order(claims: Sequence[Claim], remaining_tokens: Sequence[int]) -> list[int]:
    """Indices in the order of service; of equals the earlier index comes first."""

    def key(index: int) -> tuple[int, int, float, int]:
        claim = claims[index]
        rank = claim.priority - int(claim.waited_seconds / SECONDS_PER_CLASS)
        rest = max(0.0, remaining_tokens[index] - TOKENS_PER_WAITED_SECOND * claim.waited_seconds)
        return rank, int(claim.client_tokens / CLIENT_GRAIN_TOKENS), int(rest).bit_length(), index

    return sorted(range(len(claims)), key=key)


def plan_batch(
    active: Sequence[Load],
    batch_tokens: int,
    late_tokens: int,
    free_cells: int,
    *,
    oldest_first: bool = False,
    cuts_apart: bool = False,
) -> BatchPlan:
    """Plan one decode for the active sequences, oldest first. `batch_tokens` is at least their number.

    `late_tokens` bounds the prompt tokens of late sequences together; `oldest_first` serves the prompt that has waited
    longest before all others; with `cuts_apart` a prompt that does not fit in whole waits for a step of its own where
    others already fill this one well.
    """
    remaining = list(range(len(active)))
    preempt: list[int] = []
    while True:
        loads = [(index, active[index]) for index in remaining]
        shares = _shares(loads, Bounds(batch_tokens, late_tokens, free_cells, oldest_first, cuts_apart))
        if shares is not None or len(remaining) <= 1:
            return BatchPlan(tuple(preempt), shares or ())
        victim = newest_of_lowest_class(remaining, active)
        remaining.remove(victim)
        preempt.append(victim)
        free_cells += active[victim].cells


def newest_of_lowest_class(indices: Sequence[int], active: Sequence[Load]) -> int:
    """Who gives way: the last of those with the highest class number."""
    lowest = max(active[index].claim.priority for index in indices)
    return max(index for index in indices if active[index].claim.priority == lowest)


def may_admit(active: Sequence[Load], needed_cells: int, free_cells: int) -> bool:
    """Whether a waiting sequence may start: the pool holds it beside what the active ones still need now.

    One cell in hand for each active sequence's next token keeps an admission from causing a preemption at once.
    """
    if not active:
        return True
    promised = sum(load.to_compute for load in active) + len(active)
    return needed_cells + promised < free_cells


@dataclass(frozen=True, slots=True)
class Bounds:
    """What `plan_batch` was given beside the sequences."""

    batch_tokens: int
    late_tokens: int
    free_cells: int
    oldest_first: bool
    cuts_apart: bool


def _shares(active: list[tuple[int, Load]], bounds: Bounds) -> tuple[Share, ...] | None:
    """The batch for these sequences, or None when the pool is too full to move."""
    decoding = [index for index, load in active if load.to_compute == 1]
    if len(decoding) > bounds.free_cells:
        return None
    room = min(bounds.batch_tokens, bounds.free_cells) - len(decoding)
    prompts = _in_order([(index, load) for index, load in active if load.to_compute > 1], bounds.oldest_first)
    counts = _prompt_counts(prompts, room, min(bounds.late_tokens, room), bounds.cuts_apart)
    if not decoding and not counts and prompts:
        # Nobody flows: a bound on lateness would only waste the step.
        counts = _prompt_counts(prompts, room, room, bounds.cuts_apart)
    shares = [Share(index, 1) for index in decoding]
    shares += [Share(index, counts[index]) for index in sorted(counts)]
    return tuple(shares) if shares else None


def _in_order(prompts: list[tuple[int, Load]], oldest_first: bool) -> list[tuple[int, Load]]:
    """The prompts in the order of service."""
    order = service_order([load.claim for _, load in prompts], [load.to_compute for _, load in prompts])
    if oldest_first and order:
        longest = max(order, key=lambda at: (prompts[at][1].claim.waited_seconds, -at))
        order = [longest, *(at for at in order if at != longest)]
    return [prompts[at] for at in order]


def _prompt_counts(prompts: list[tuple[int, Load]], room: int, late_room: int, cuts_apart: bool) -> dict[int, int]:
    """How many tokens each prompt gets, by index; the first are served first."""
    counts: dict[int, int] = {}
    for index, load in prompts:
        most = min(room, late_room) if load.is_late else room
        count = max(0, min(load.to_compute, load.most or load.to_compute, most))
        if cuts_apart and count < load.to_compute and sum(counts.values()) >= ENOUGH_ROWS:
            continue
        if count:
            counts[index] = count
        room -= count
        late_room -= count if load.is_late else 0
    return counts
