"""What `plan` prints: a bar and a row of figures per device, the choices, the speed; and the alternatives. Pure.

CUDA0  ████████████████████▒▒▒▒░      ⋅⋅⋅  8.5 of 24 GB    weights █, cache ▒, computing ░, kept free ⋅
"""

from __future__ import annotations

from collections.abc import Iterator

from localllm.cli.output import aligned_lines
from localllm.client_plans import DeviceShare, MachineDevice, Placement, PlanAnswer
from localllm.sizes import size_text

_WEIGHTS, _CACHE, _COMPUTE, _FREE, _RESERVE = "█", "▒", "░", " ", "⋅"
_LONGEST_BAR = 48
_TIERS = {"gpu": "GPU", "experts": "GPU, experts on the CPU", "layers": "GPU and CPU", "cpu": "CPU"}


def plan_lines(answer: PlanAnswer, columns: int) -> Iterator[str]:
    """Everything but the alternatives."""
    where = "" if answer.is_here else f", not here yet ({answer.repository})" if answer.repository else ", not here yet"
    yield f"{answer.model} {answer.quantization}, {size_text(answer.file_bytes)}{where}"
    yield from (f"  {remark}" for remark in answer.remarks)
    yield ""
    if answer.plan is None:
        yield from (f"  {line}" for line in _machine_lines(answer))
        return
    yield from (f"  {line}" for line in _bars(answer.plan, answer.machine, columns - 2))
    yield ""
    yield from (f"  {line}" for line in aligned_lines(list(_figures(answer.plan, answer.machine))))
    yield ""
    yield from (f"  {line}" for line in aligned_lines(list(_choices(answer.plan, answer.machine, columns - 18))))


def _machine_lines(answer: PlanAnswer) -> list[str]:
    rows = [
        (one.device, one.description, f"{size_text(one.budget)} of {size_text(one.total)}") for one in answer.machine
    ]
    return aligned_lines([("DEVICE", "", "FOR MODELS"), *rows])


def _bars(plan: Placement, machine: tuple[MachineDevice, ...], columns: int) -> Iterator[str]:
    """A bar per device, as long as all of its memory."""
    names = max((len(one.device) for one in machine), default=0)
    length = max(10, min(_LONGEST_BAR, columns - names - 26))
    shares = {share.device: share for share in plan.devices}
    for one in machine:
        share = shares.get(one.device, DeviceShare(one.device))
        yield f"{one.device:<{names}}  {_bar(share, one, length)}  {size_text(share.total)} of {size_text(one.total)}"
    yield f"{'':<{names}}  {_WEIGHTS} weights  {_CACHE} cache  {_COMPUTE} computing  {_RESERVE} kept or used otherwise"


def _bar(share: DeviceShare, device: MachineDevice, length: int) -> str:
    """The parts of a device's memory, each at least one cell long if there is any of it."""
    total = max(device.total, 1)
    other = device.total - max(device.budget, share.total)
    parts = ((_WEIGHTS, share.weights), (_CACHE, share.cache), (_COMPUTE, share.compute + share.overhead))
    cells = [(mark, max(1, round(size / total * length)) if size else 0) for mark, size in parts]
    kept = max(1, round(other / total * length)) if other > 0 else 0
    used = sum(count for _, count in cells)
    free = max(0, length - used - kept)
    return ("".join(mark * count for mark, count in cells) + _FREE * free + _RESERVE * kept)[:length]


def _figures(plan: Placement, machine: tuple[MachineDevice, ...]) -> Iterator[tuple[str, ...]]:
    about = {one.device: one for one in machine}
    yield "DEVICE", "LAYERS", "WEIGHTS", "CACHE", "COMPUTING", "TOTAL", "FOR MODELS", "KEPT FREE"
    for share in plan.devices:
        device = about.get(share.device, MachineDevice(share.device))
        yield (
            share.device,
            str(share.layers),
            size_text(share.weights),
            size_text(share.cache),
            size_text(share.compute + share.overhead),
            size_text(share.total),
            size_text(share.budget),
            size_text(device.reserve),
        )


def _choices(plan: Placement, machine: tuple[MachineDevice, ...], columns: int) -> Iterator[tuple[str, str]]:
    context = plan.context
    yield "place", plan.reason
    pool = f"{context.pool_tokens:,} tokens for {context.parallel} requests at once"
    yield "pool", f"{pool} ({context.layout}), keys {context.cache_type_k}, values {context.cache_type_v}"
    if plan.speed is not None:
        assumed = _assumed(plan, machine) if plan.speed.is_assumed else ""
        decode, prefill = plan.speed.decode_tokens_per_second, plan.speed.prefill_tokens_per_second
        yield "speed", f"about {rate_text(decode)} tokens/s, prompts {rate_text(prefill)} tokens/s{assumed}"
    for note in plan.notes:
        yield "note", note
    for index, flags in enumerate(_wrapped(plan.flags, max(columns, 40))):
        yield ("as flags" if index == 0 else ""), flags


def _assumed(plan: Placement, machine: tuple[MachineDevice, ...]) -> str:
    used = {share.device for share in plan.devices}
    unknown = [
        one.device for one in machine if one.device in used and None in (one.bandwidth_bytes_per_second, one.flops)
    ]
    return f"; assumed: nobody measured {' and '.join(unknown) or 'some device'}"


def _wrapped(flags: tuple[str, ...], width: int) -> Iterator[str]:
    line = ""
    for flag in flags:
        if line and len(line) + len(flag) + 1 > width:
            yield line
            line = ""
        line = f"{line} {flag}".strip()
    if line:
        yield line


def alternative_rows(answer: PlanAnswer) -> list[tuple[str, ...]]:
    """The plan itself first, then what else could be done."""
    if not answer.alternatives:
        return []
    rows = [] if answer.plan is None else [_row("as planned", answer.plan)]
    for one in answer.alternatives:
        if one.plan is not None:
            rows.append(_row(one.label, one.plan))
        else:
            missing = f"does not fit: {size_text(one.missing)} missing" if one.missing else "not possible"
            rows.append((one.label, missing, "-", "-", "-", "-"))
    return rows


def _row(label: str, plan: Placement) -> tuple[str, ...]:
    speed = plan.speed
    return (
        label,
        place_text(plan),
        size_text(plan.size),
        f"{plan.context.pool_tokens:,}",
        rate_text(speed.decode_tokens_per_second) if speed else "-",
        rate_text(speed.prefill_tokens_per_second) if speed else "-",
    )


def place_text(plan: Placement) -> str:
    """In a few words where a model lies: "GPU", "GPU and CPU, 21 of 33 layers"."""
    if plan.tier == "layers":
        return f"{_TIERS['layers']}, {plan.gpu_layers} of {plan.layers} layers"
    return _TIERS.get(plan.tier, plan.tier)


def rate_text(rate: float) -> str:
    """Tokens per second: "1.8", "47", "2,140"."""
    return f"{rate:.1f}" if rate < 10 else f"{rate:,.0f}" if rate < 1000 else f"{round(rate, -1):,.0f}"
