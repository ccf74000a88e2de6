"""The published cases of placement and their plans as text: what tests/golden/placement_plans.txt holds.

python tests/published_plans.py        prints the table; read it line by line before it becomes the golden one
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from real_shapes import SHAPES

from localllm.errors import DoesNotFitError
from localllm.placement.budgets import room_of
from localllm.placement.devices import Device, Host, Machine
from localllm.placement.estimate import estimate
from localllm.placement.plan import Plan, plan
from localllm.placement.wishes import Wishes
from localllm.sizes import size_text

GIB = 2**30
GOLDEN = Path(__file__).parent / "golden" / "placement_plans.txt"
# A card of so many GiB: what is sold with that memory, with its bandwidth and half-precision rate.
CARDS = {
    1: ("GT 710", 14e9, 0.4e12),
    8: ("RTX 4060", 272e9, 60e12), 12: ("RTX 4070", 504e9, 117e12), 16: ("RTX 4080", 717e9, 195e12),
    24: ("RTX 4090", 1008e9, 330e12), 48: ("RTX 6000 Ada", 960e9, 364e12), 80: ("H100", 3350e9, 990e12),
}  # fmt: skip
HOST_GIB = 64
CASES: tuple[tuple[str, str, tuple[tuple[int, ...], ...]], ...] = (
    ("llama3-8b", "Q4_K_M", ((8,), (12,), (16,), (24,), (48,), (80,))),
    ("llama3-70b", "Q4_K_M", ((8,), (12,), (16,), (24,), (48,), (80,), (24, 24), (24, 12))),
    ("qwen3-30b-a3b", "Q4_K_M", ((8,), (16,), (24,), (12, 8))),
    ("gpt-oss-20b", "MXFP4", ((16,), (24,), (80,))),
    ("gpt-oss-120b", "MXFP4", ((16,), (24,), (80,), (48, 24))),
    ("llama3-8b", "Q4_K_M", ((),)),
    ("llama3-70b", "F16", ((24,),)),
)


def machine(*cards: int, host_gib: int = HOST_GIB) -> Machine:
    """A machine with these cards, all memory of which is free but what a desktop takes, and a host."""
    gpus = tuple(_card(index, gib) for index, gib in enumerate(cards))
    host = Host(16, host_gib * GIB, (host_gib - 4) * GIB)
    cpu = Device("cpu", "CPU", total_bytes=host.total_bytes, free_bytes=host.available_bytes,
                 bandwidth_bytes_per_second=80e9, flops=1.5e12)  # fmt: skip
    return Machine((*gpus, cpu), host)


def _card(index: int, gib: int) -> Device:
    name, bandwidth, flops = CARDS[gib]
    return Device(
        "gpu", f"CUDA{index}", name, f"0000:0{index + 1}:00.0", gib * GIB, gib * GIB - 300 * 2**20,
        bandwidth, flops, 25e9, "CUDA",
    )  # fmt: skip


def table() -> Iterator[str]:
    """Every case, in lines."""
    for name, quant, machines in CASES:
        estimated = estimate(SHAPES[name].header(quant))
        yield f"{SHAPES[name].name} {quant}, {size_text(estimated.weight_bytes)}"
        for cards in machines:
            there = machine(*cards)
            cards_text = " + ".join(f"{gib} GiB {CARDS[gib][0]}" for gib in cards) or "no GPU"
            yield f"  {cards_text}, host {HOST_GIB} GiB"
            try:
                yield from (
                    f"    {line}"
                    for line in lines_of(plan(estimated, room_of(there, estimated.vocabulary, Wishes()), Wishes()))
                )
            except DoesNotFitError as error:
                yield f"    refused: {error}"
                yield f"    {error.hint}"
        yield ""


def lines_of(plan_: Plan) -> Iterator[str]:
    """A plan in a few lines."""
    layout, shape = plan_.layout, plan_.shape
    split = f", split {'/'.join(f'{part:g}' for part in layout.tensor_split)}" if layout.tensor_split else ""
    experts = f", experts of {len(layout.overrides)} layers on the CPU" if layout.overrides else ""
    kind = "unified" if shape.is_unified else "streams"
    whole = ", whole windows" if shape.keeps_whole_window else ""
    yield f"{plan_.tier}: {layout.gpu_layers} of {plan_.layers} layers on GPUs{split}{experts}"
    yield f"pool of {shape.cells} cells, {shape.sequences} slots, {kind}{whole}, {shape.k_type}"
    for share in plan_.shares:
        weights, context = share.weights / GIB, share.context / GIB
        rest = (share.compute + share.overhead) / GIB
        yield (
            f"{share.device}: {share.total / GIB:.2f} of {share.budget / GIB:.2f} GiB "
            f"(weights {weights:.2f}, cache {context:.2f}, computing {rest:.2f})"
        )
    assert plan_.speed is not None
    yield f"about {plan_.speed.decode:.0f} tokens/s, prompts {plan_.speed.prefill:.0f} tokens/s"
    yield f"because {plan_.reason}"
    yield from (f"note: {note}" for note in plan_.notes)


if __name__ == "__main__":
    sys.stdout.write("\n".join(table()))
