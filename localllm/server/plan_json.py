"""A plan as JSON, for /api/plan and /api/ps: pure shapes. Bytes, tokens per second, llama.cpp's own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from localllm.placement.alternatives import Alternative
from localllm.placement.arrange import CPU, DeviceShare
from localllm.placement.choose import Room
from localllm.placement.plan import Plan
from localllm.runner.protocol import Loaded


def plan_json(plan: Plan) -> dict[str, Any]:
    """Where everything lies, with what flags, and how fast that should be."""
    speed = plan.speed
    return {
        "tier": plan.tier,
        "reason": plan.reason,
        "fallback": plan.fallback,
        "notes": list(plan.notes),
        "gpu_layers": plan.layout.gpu_layers,
        "layers": plan.layers,
        "context": context_json(plan),
        "size": plan.total_bytes,
        "size_vram": plan.gpu_bytes,
        "devices": [share_json(share) for share in plan.shares],
        "flags": flags(plan),
        "speed": None
        if speed is None
        else {
            "decode_tokens_per_second": round(speed.decode, 2),
            "prefill_tokens_per_second": round(speed.prefill, 1),
            "is_assumed": speed.is_assumed,
        },
    }


def context_json(plan: Plan) -> dict[str, Any]:
    """The pool, and how requests share it."""
    shape = plan.shape
    return {
        "pool_tokens": shape.cells,
        "parallel": plan.parallel,
        "slots": shape.sequences,
        "layout": "unified" if shape.is_unified else "streams",
        "cache_type_k": shape.k_type,
        "cache_type_v": shape.v_type,
        "batch_tokens": shape.batch_tokens,
        "keeps_whole_window": shape.keeps_whole_window,
    }


def share_json(share: DeviceShare) -> dict[str, Any]:
    """What one device holds, of how much."""
    return {
        "device": share.device,
        "layers": share.layers,
        "weights": share.weights,
        "cache": share.context,
        "compute": share.compute,
        "overhead": share.overhead,
        "total": share.total,
        "budget": share.budget,
    }


def flags(plan: Plan) -> list[str]:
    """The choices as llama-server would be told them."""
    layout, shape = plan.layout, plan.shape
    chosen = [f"--n-gpu-layers {layout.gpu_layers}"]
    if layout.devices:
        chosen.append(f"--device {','.join(layout.devices)}")
    if layout.tensor_split:
        chosen.append(f"--tensor-split {','.join(f'{part:g}' for part in layout.tensor_split)}")
    experts = [override for override in layout.overrides if "ffn_(up|down|gate|gate_up)_(ch|)exps" in override.pattern]
    if experts:
        chosen.append(f"--n-cpu-moe {len(experts)}")
    chosen += [f"--override-tensor {one.pattern}={one.device}" for one in layout.overrides if one not in experts]
    chosen += [f"--ctx-size {shape.cells}", f"--parallel {shape.sequences}"]
    chosen += ["--kv-unified"] if shape.is_unified else []
    chosen += [f"--ubatch-size {shape.batch_tokens}", f"--threads {plan.threads}"]
    if (shape.k_type, shape.v_type) != ("f16", "f16"):
        chosen.append(f"--cache-type-k {shape.k_type} --cache-type-v {shape.v_type}")
    chosen += ["--swa-full"] if shape.keeps_whole_window else []
    chosen += [] if shape.flash_attention else ["--flash-attn off"]
    chosen += [] if layout.use_mmap else ["--no-mmap"]
    return [*chosen, *([] if layout.use_extra_buffers else ["--no-repack"])]


def alternatives_json(alternatives: Sequence[Alternative]) -> list[dict[str, Any]]:
    """What else could be done, and what came of it."""
    return [
        {
            "label": one.label,
            "fits": one.plan is not None,
            "missing": one.missing_bytes,
            "plan": plan_json(one.plan) if one.plan is not None else None,
        }
        for one in alternatives
    ]


def machine_json(room: Room) -> list[dict[str, Any]]:
    """The devices that were planned for."""
    return [
        {
            "device": device.name,
            "kind": device.kind,
            "description": device.description,
            "total": device.total_bytes,
            "free": device.free_bytes,
            "budget": room.budgets.get(device.name, 0),
            "reserve": max(0, device.free_bytes - room.budgets.get(device.name, 0)),
            "bandwidth_bytes_per_second": device.bandwidth_bytes_per_second,
            "flops": device.flops,
        }
        for device in room.machine.devices
    ]


def proven_json(plan: Plan | None, loaded: Loaded | None, measured: Mapping[str, int]) -> dict[str, Any] | None:
    """What a loaded model was to take and what it took, device by device; None when nothing was planned."""
    if plan is None or loaded is None or not plan.shares:
        return None
    rows = []
    for share in plan.shares:
        if not share.total:
            continue
        mine = [buffer for buffer in loaded.buffers if buffer.device == share.device]
        rows.append(
            {
                **share_json(share),
                "measured": {
                    "weights": sum(buffer.weights for buffer in mine),
                    "cache": sum(buffer.context for buffer in mine),
                    "compute": sum(buffer.compute for buffer in mine),
                    "total": measured.get(share.device),
                },
            }
        )
    return {**plan_json(plan), "devices": rows}


def sizes_of(loaded: Loaded) -> tuple[int, int]:
    """Bytes of a loaded model's buffers, and those of them on GPUs."""
    if not loaded.buffers:
        return loaded.weight_bytes + loaded.kv_bytes, loaded.gpu_bytes
    total = sum(buffer.total for buffer in loaded.buffers)
    return total, sum(buffer.total for buffer in loaded.buffers if buffer.device != CPU)
