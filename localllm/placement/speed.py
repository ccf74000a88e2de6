"""How fast a model should run where it lies: tokens per second from bytes, bandwidths and rates. Pure.

Each next token reads all active weights and what the sequence remembers, one device after the other: bytes over
bandwidth. A prompt is computed in batches: operations over rate; the matrices in host memory are copied to a GPU for
each batch where that is faster than computing them on the CPU. Real engines reach a part of what a device can do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from localllm.placement.arrange import Arrangement, Costs
from localllm.placement.devices import Device

# Of what is measured by a plain copy or a large product, what llama.cpp's kernels reach.
_READ_SHARE = 0.75
_COMPUTE_SHARE = 0.5
_BATCH_SECONDS = 2e-3  # of putting a batch together
_HANDOVER_SECONDS = 60e-6  # from one device to the next, for each token
_LAYER_SECONDS = 30e-6  # of starting what a layer computes
_EXPERT_SHARE = 0.4  # of the rate that a dense matrix reaches, when a batch is spread over many small ones
# What a device of its kind has about, where nobody measured or said it.
_ASSUMED = {
    "gpu": (400e9, 40e12, 12e9),
    "cpu": (40e9, 0.5e12, 0.0),
}


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second of one sequence. `is_assumed`: of some device nobody knows how fast it is."""

    decode: float
    prefill: float
    is_assumed: bool = False


@dataclass(frozen=True, slots=True)
class Rates:
    """What one device does: bytes and operations per second, and bytes between host memory and it."""

    bandwidth: float
    flops: float
    link: float


def rates_of(device: Device) -> Rates:
    """A device's rates, or what its kind has about."""
    bandwidth, flops, link = _ASSUMED[device.kind]
    return Rates(
        device.bandwidth_bytes_per_second or bandwidth, device.flops or flops, device.link_bytes_per_second or link
    )


def predicted_speed(arrangement: Arrangement, costs: Costs, host: Device) -> Speed:
    """How fast `arrangement` answers, and how fast it reads a prompt."""
    devices = (*arrangement.gpus, host)
    is_assumed = any(d.bandwidth_bytes_per_second is None or d.flops is None for d in devices)
    return Speed(
        1 / max(decode_seconds(arrangement, costs, host), 1e-9),
        costs.shape.batch_tokens / max(_batch_seconds(arrangement, costs, host), 1e-9),
        is_assumed,
    )


def decode_seconds(arrangement: Arrangement, costs: Costs, host: Device) -> float:
    """Seconds of one next token."""
    cpu = rates_of(host)
    first = costs.count - arrangement.gpu_layers
    seconds = sum(_layer_seconds(costs, index, cpu, _active(costs, index)) for index in range(first))
    at, experts_out = first, 0
    for device, block in zip(arrangement.gpus, arrangement.blocks, strict=True):
        # A GPU that seems slower than the host is still where layers belong: figures of two kinds compare badly.
        gpu = rates_of(device)
        gpu = replace(gpu, bandwidth=max(gpu.bandwidth, cpu.bandwidth))
        for index in range(at, at + block):
            active, experts = _active(costs, index), _active_experts(costs, index)
            if index < arrangement.cpu_experts and experts:
                experts_out += 1
                seconds += experts / (cpu.bandwidth * _READ_SHARE)
                active -= experts
            seconds += _layer_seconds(costs, index, gpu, active)
        at += block
    handovers = len(arrangement.gpus) - 1 + (first > 0 and bool(arrangement.gpus)) + 2 * experts_out
    return seconds + max(handovers, 0) * _HANDOVER_SECONDS


def _layer_seconds(costs: Costs, index: int, rates: Rates, weights: float) -> float:
    return (weights + costs.remembered[index]) / (rates.bandwidth * _READ_SHARE) + _LAYER_SECONDS


def _active(costs: Costs, index: int) -> float:
    """Bytes of weights that one token reads in a layer."""
    return costs.weights[index] - costs.experts[index] + _active_experts(costs, index)


def _active_experts(costs: Costs, index: int) -> float:
    return costs.experts[index] * costs.estimate.expert_share


def _parameters(costs: Costs, index: int) -> tuple[float, float]:
    """Parameters that one token is multiplied with in a layer: without its experts, and those of its experts."""
    estimate = costs.estimate
    if index == costs.count - 1:
        # Of a prompt only the last token's logits are wanted.
        return estimate.output_parameters / costs.shape.batch_tokens, 0.0
    layer = estimate.layers[index]
    return float(layer.active_parameters), layer.expert_parameters * estimate.expert_share


def _batch_seconds(arrangement: Arrangement, costs: Costs, host: Device) -> float:
    """Seconds of one batch of a prompt."""
    tokens, cpu = costs.shape.batch_tokens, rates_of(host)
    first = costs.count - arrangement.gpu_layers
    helper = rates_of(arrangement.gpus[0]) if arrangement.gpus else None

    def on_host(parameters: float, bytes_: float) -> float:
        alone = 2 * parameters * tokens / (cpu.flops * _COMPUTE_SHARE)
        if helper is None or not helper.link:
            return alone
        return min(alone, bytes_ / helper.link + 2 * parameters * tokens / (helper.flops * _COMPUTE_SHARE))

    seconds = sum(on_host(sum(_parameters(costs, index)), costs.weights[index]) for index in range(first))
    seconds += _BATCH_SECONDS
    at = first
    for device, block in zip(arrangement.gpus, arrangement.blocks, strict=True):
        for index in range(at, at + block):
            own, experts = _parameters(costs, index)
            if index < arrangement.cpu_experts:
                seconds += on_host(experts, costs.experts[index])
                experts = 0.0
            rates, kept = rates_of(device), costs.experts[index] if experts else 0
            dense = 2 * own * tokens / (rates.flops * _COMPUTE_SHARE)
            mixed = 2 * experts * tokens / (rates.flops * _COMPUTE_SHARE * _EXPERT_SHARE)
            seconds += dense + max(mixed, kept / (rates.bandwidth * _READ_SHARE)) + _LAYER_SECONDS
        at += block
    return seconds
