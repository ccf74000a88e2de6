"""How a model is laid out when it loads: devices × model × wishes → Plan. Pure, so every machine can be planned for.

    1. a context in which one request has what it should have; its layers where they are fastest  (choose.py)
    2. if nothing holds that, the same with fewer cells, down to 4,096
    3. if nothing holds that either, DoesNotFitError says by how much, and what would fit          (refusal.py)
    4. of what is left over a part goes to the pool, and all of it if no other model is to have room

What was said holds: layers, shares, experts, types of keys and values, the context. `num_ctx` of a single request is a
limit of that request and never comes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from localllm.config import KvLayout
from localllm.placement import reasons
from localllm.placement.arrange import CPU, Arrangement, Costs, DeviceShare, costs_of, host_of, shares_of
from localllm.placement.cell_layout import LayoutChoice
from localllm.placement.choose import Found, Room, best
from localllm.placement.devices import Host
from localllm.placement.estimate import Estimate
from localllm.placement.layout import EXPERT_PATTERN, Layout, TensorOverride
from localllm.placement.pool import (
    HOST_POOL_BYTES_MOST,
    HOST_POOL_SHARE,
    PoolBounds,
    bounds_of,
    host_cells,
    largest,
    layout_for,
    memory_kind,
    pool_shape,
    shape_for,
)
from localllm.placement.refusal import does_not_fit, refuse_impossible
from localllm.placement.shape import ContextShape
from localllm.placement.speed import Speed, predicted_speed
from localllm.placement.wishes import Wishes

Tier = Literal["gpu", "experts", "layers", "cpu"]
# Of a file this small a step takes less time than the meetings of its threads: `guide` is three times as fast on one.
ONE_THREAD_BYTES = 48 * 2**20
MOST_THREADS = 512  # GGML_MAX_N_THREADS; llama.cpp aborts above it
SHARED_POOL_PART = 1 / 3  # of what a GPU has left, where other models are to have room
CACHE_OF_FEWER_BITS = "q8_0"
MAPPED_PART = 0.5  # of the weights that must stay as they are in the file, or it is read instead of mapped
Chosen = tuple[Found, Costs, Wishes]  # the wishes with what was chosen of them


@dataclass(frozen=True, slots=True)
class DraftPlan:
    """Where a draft model lies, whole on `device` (but for its embedding), in a context of one sequence.

    `shares` are what it takes of each device; of the process itself only the tables of its vocabulary.
    """

    layout: Layout
    shape: ContextShape
    device: str
    shares: tuple[DeviceShare, ...]
    threads: int

    def on(self, device: str) -> DeviceShare:
        """Its bytes on one device."""
        return next((share for share in self.shares if share.device == device), DeviceShare(device, 0, 0, 0))


@dataclass(frozen=True, slots=True)
class Plan:
    """One model's layout and what it takes. `shares` are GPUs first, the host last; `layers` counts the output too.

    `cells` is how the pool is laid out; None leaves it to the runner. `tier`: everything on GPUs, or some experts, some
    layers, or all of it in host memory. `fallback` says why something is in host memory that was meant for a GPU; empty
    when nothing is, or when it was asked for. `pool_bytes_limit` bounds the pool of a model whose header nobody read
    (then `shape.cells` is 0), and what an embedding model remembers of its inputs. Adapters, which are never mapped
    from their files, have `adapter_bytes` of the weights, and need `adapter_compute_bytes` of a device's computing.
    `draft` is where the draft model lies, if there is one; `shares` count it.
    """

    layout: Layout
    shape: ContextShape
    parallel: int
    threads: int
    cells: LayoutChoice | None = None
    kv_layout: KvLayout = "auto"
    stream_slowdown: float = 2.0
    shares: tuple[DeviceShare, ...] = ()
    layers: int = 0
    tier: Tier = "cpu"
    speed: Speed | None = None
    reason: str = ""
    fallback: str = ""
    notes: tuple[str, ...] = ()
    pool_bytes_limit: int = 0
    adapter_bytes: int = 0
    adapter_compute_bytes: int = 0
    draft: DraftPlan | None = None

    @property
    def total_bytes(self) -> int:
        return sum(share.total for share in self.shares)

    @property
    def gpu_bytes(self) -> int:
        return sum(share.total for share in self.shares if share.device != CPU)

    def bytes_by_device(self) -> dict[str, int]:
        """What it takes of each device."""
        return {share.device: share.total for share in self.shares if share.total}


def plan(estimate: Estimate, room: Room, wishes: Wishes) -> Plan:
    """Lay out a model. Raises DoesNotFitError when nothing holds it, and ImpossibleWishError for a wish that no
    arrangement can fulfil."""
    refuse_impossible(estimate, room, wishes)
    found, costs, chosen = choose_plan(estimate, room, wishes)
    return _grown(found, costs, room, chosen)


def choose_plan(estimate: Estimate, room: Room, wishes: Wishes) -> Chosen:
    """Where a model lies with the least that it should have, for wishes that are possible. Raises DoesNotFitError."""
    chosen = _chosen(estimate, room, wishes)
    if chosen is None:
        raise does_not_fit(estimate, room, wishes, partial(_would_fit, room))
    return chosen


def _would_fit(room: Room, estimate: Estimate, wishes: Wishes) -> bool:
    return _chosen(estimate, replace(room, ignores_host=wishes.use_mmap is True), wishes) is not None


def plan_unseen(host: Host, wishes: Wishes, file_bytes: int) -> Plan:
    """The plan for a model whose header cannot be read here: the runner counts the cells within the limit."""
    return Plan(
        layout=Layout(
            gpu_layers=-1 if wishes.gpu_layers is None else wishes.gpu_layers,
            use_mmap=wishes.use_mmap is not False,
            use_extra_buffers=wishes.use_extra_buffers,
        ),
        shape=ContextShape(0, wishes.parallel, wishes.batch_tokens, k_type=wishes.k_type, v_type=wishes.v_type),
        parallel=wishes.parallel,
        threads=threads_for(host, wishes, file_bytes),
        kv_layout=wishes.kv_layout,
        stream_slowdown=wishes.stream_slowdown,
        pool_bytes_limit=host_pool_bytes(host.available_bytes),
    )


def host_pool_bytes(free_bytes: int) -> int:
    """What a pool in host memory may take."""
    return min(int(free_bytes * HOST_POOL_SHARE), HOST_POOL_BYTES_MOST)


def _chosen(estimate: Estimate, room: Room, wishes: Wishes) -> Chosen | None:
    bounds = bounds_of(estimate, wishes)
    for cells in dict.fromkeys((bounds.usual, bounds.least)):
        chosen = _best_cache(estimate, room, wishes, cells, bounds)
        if chosen is not None:
            return chosen
    return None


def _best_cache(estimate: Estimate, room: Room, wishes: Wishes, cells: int, bounds: PoolBounds) -> Chosen | None:
    """The best placement with the cache as it was said; with one of fewer bits if that may be and is faster, by however
    little: else more memory, with which the usual cache comes near, would make a plan slower."""
    usual = _best_place(estimate, room, wishes, cells, bounds)
    if not wishes.may_quantize_cache or (usual and tier_of(usual[0].arrangement, usual[1]) == "gpu"):
        return usual
    small = replace(wishes, k_type=CACHE_OF_FEWER_BITS, v_type=CACHE_OF_FEWER_BITS)
    other = _best_place(estimate, room, small, cells, bounds)
    if usual is None or (other and other[0].seconds < usual[0].seconds):
        return other
    return usual


def _best_place(estimate: Estimate, room: Room, wishes: Wishes, cells: int, bounds: PoolBounds) -> Chosen | None:
    """With GPUs if a layer of it can be there, else on the host, whose pool begins with the fewest cells."""
    if room.machine.gpus and wishes.gpu_layers != 0:
        costs = _costs(estimate, shape_for(estimate, wishes, cells, is_on_gpu=True), wishes)
        found = best(costs, room, wishes)
        if found is not None and found.arrangement.gpu_layers:
            return found, costs, wishes
        if wishes.gpu_layers is not None:
            return None
    costs = _costs(estimate, shape_for(estimate, wishes, bounds.least, is_on_gpu=False), wishes)
    found = best(costs, room, wishes, may_use_gpus=False)
    return None if found is None else (found, costs, wishes)


def _costs(estimate: Estimate, shape: ContextShape, wishes: Wishes) -> Costs:
    return costs_of(estimate, shape, packs=wishes.use_extra_buffers)


def _grown(found: Found, costs: Costs, room: Room, wishes: Wishes) -> Plan:
    """The plan, its pool as large as what is left over allows."""
    arrangement = found.arrangement
    shape = costs.shape if wishes.embeds else _grown_shape(found, costs, room, wishes)
    grown = _costs(costs.estimate, shape, wishes)
    shares = shares_of(arrangement, grown, room.overheads, room.budgets)
    plan_ = _plan_of(arrangement, grown, shares, room, wishes)
    return replace(
        plan_,
        reason=reasons.reason(plan_.tier, arrangement, grown, room, wishes),
        fallback=reasons.fallback(plan_.tier, arrangement, grown, room, wishes),
        notes=reasons.notes(shape, bounds_of(costs.estimate, wishes), room, wishes, shares),
    )


def _grown_shape(found: Found, costs: Costs, room: Room, wishes: Wishes) -> ContextShape:
    estimate, is_on_gpu = costs.estimate, found.arrangement.gpu_layers > 0
    bounds = bounds_of(estimate, wishes)
    caps = {share.device: _cap(share, room, wishes) for share in found.shares}
    on_host = _host_cap(found, caps[CPU], room, wishes)

    def shape_of(cells: int, whole: bool | None) -> ContextShape:
        return pool_shape(estimate, wishes, cells, is_on_gpu=is_on_gpu, keeps_whole_window=whole)

    def fits(cells: int, whole: bool | None) -> bool:
        shares = shares_of(found.arrangement, _costs(estimate, shape_of(cells, whole), wishes), room.overheads, caps)
        return room.holds_each(shares) and room.on_host(shares) <= on_host

    most, least = bounds.most, costs.shape.cells
    if not is_on_gpu:
        most = min(most, max(bounds.least, host_cells(estimate, wishes, room.budgets.get(CPU, 0))))
    whole = None
    if memory_kind(estimate) == "window":
        whole = costs.shape.keeps_whole_window or fits(least, True)
    if most <= least:
        return shape_of(least, whole) if fits(least, whole) else costs.shape
    cells = largest(least, most, lambda cells: fits(cells, whole))
    return costs.shape if cells == least else shape_of(cells, whole)


def _host_cap(found: Found, own: int, room: Room, wishes: Wishes) -> int:
    """What the host may give once the pool has grown: by its own part, of which `own` may be taken, or on integrated
    GPUs as on any other."""
    now, host = room.on_host(found.shares), host_of(found.shares)
    most = own + now - room.asked(host).total
    if any(gpu.is_integrated for gpu in found.arrangement.gpus):
        left = max(0, host.budget - now)
        most = max(min(most, host.budget), now + int(left * (SHARED_POOL_PART if wishes.shares_machine else 1.0)))
    return most


def _cap(share: DeviceShare, room: Room, wishes: Wishes) -> int:
    """What a device may hold of the model once its pool has grown."""
    left = max(0, share.budget - share.total)
    if share.device == CPU:
        part = left * (HOST_POOL_SHARE if wishes.shares_machine else 1.0)
        return share.total + min(int(part), max(0, host_pool_bytes(share.budget) - share.context))
    return share.total + int(left * (SHARED_POOL_PART if wishes.shares_machine else 1.0))


def _plan_of(arrangement: Arrangement, costs: Costs, shares: Sequence[DeviceShare], room: Room, wishes: Wishes) -> Plan:
    estimate = costs.estimate
    tier = tier_of(arrangement, costs)
    return Plan(
        layout=_layout(arrangement, tier, wishes, is_mapped=_maps(tier, estimate, room.machine.host, wishes)),
        shape=costs.shape,
        parallel=wishes.parallel,
        threads=threads_for(room.machine.host, wishes, estimate.weight_bytes if tier == "cpu" else ONE_THREAD_BYTES),
        cells=None if wishes.embeds else _cells(arrangement, costs, wishes),
        kv_layout=wishes.kv_layout,
        stream_slowdown=wishes.stream_slowdown,
        shares=(*shares[:-1], *_named_only(arrangement, room, wishes), shares[-1]),
        layers=costs.count,
        tier=tier,
        speed=predicted_speed(arrangement, costs, room.machine.cpu),
        # An embedding model has no pool: the bytes bound how long an input may be.
        pool_bytes_limit=host_pool_bytes(room.budgets.get(CPU, 0)) if wishes.embeds else 0,
        adapter_bytes=estimate.adapters.weights,
        adapter_compute_bytes=estimate.adapter_compute_bytes(costs.shape),
    )


def _cells(arrangement: Arrangement, costs: Costs, wishes: Wishes) -> LayoutChoice:
    shape = costs.shape
    is_on_gpu = arrangement.gpu_layers > 0
    return layout_for(
        costs.estimate, wishes, shape.cells, is_on_gpu=is_on_gpu, keeps_whole_window=shape.keeps_whole_window
    )


def _layout(arrangement: Arrangement, tier: Tier, wishes: Wishes, *, is_mapped: bool) -> Layout:
    experts = arrangement.cpu_experts if tier in ("experts", "layers") else 0
    # A GPU that only holds tensors which were told to lie there must be among the model's devices, without a layer.
    named = _named(arrangement, wishes)
    blocks = (*arrangement.blocks, *(0 for _ in named))
    return Layout(
        gpu_layers=arrangement.gpu_layers,
        devices=(*(device.name for device in arrangement.gpus), *named),
        tensor_split=tuple(float(block) for block in blocks) if len(blocks) > 1 else (),
        overrides=(*wishes.overrides, *_expert_overrides(experts)),
        use_mmap=is_mapped,
        # Matrices in layouts of the CPU's own cannot be copied to a GPU, which reads prompts faster.
        use_extra_buffers=wishes.use_extra_buffers and tier in ("cpu", "gpu"),
    )


def _maps(tier: Tier, estimate: Estimate, host: Host, wishes: Wishes) -> bool:
    """Whether the file is mapped. Of a matrix in a layout of the CPU's own, mapped pages would be a second copy."""
    if wishes.use_mmap is not None or tier != "cpu" or not wishes.use_extra_buffers:
        return wishes.use_mmap is not False
    return estimate.packed_bytes(has_amx=host.has_amx) <= MAPPED_PART * estimate.weight_bytes


def _named(arrangement: Arrangement, wishes: Wishes) -> tuple[str, ...]:
    """GPUs that only an override names."""
    used = {CPU, *(device.name for device in arrangement.gpus)}
    return tuple(dict.fromkeys(one.device for one in wishes.overrides if one.device not in used))


def _named_only(arrangement: Arrangement, room: Room, wishes: Wishes) -> tuple[DeviceShare, ...]:
    return tuple(
        DeviceShare(name, 0, 0, 0, room.overheads.get(name, 0), room.budgets.get(name, 0))
        for name in _named(arrangement, wishes)
    )


def _expert_overrides(layers: int) -> tuple[TensorOverride, ...]:
    if not layers:
        return ()
    return tuple(TensorOverride(EXPERT_PATTERN.format(index), CPU) for index in range(layers))


def tier_of(arrangement: Arrangement, costs: Costs) -> Tier:
    """How much of the model lies on GPUs."""
    if arrangement.gpu_layers == 0:
        return "cpu"
    if arrangement.gpu_layers < costs.count:
        return "layers"
    return "experts" if any(costs.experts[: arrangement.cpu_experts]) else "gpu"


def threads_for(host: Host, wishes: Wishes, weight_bytes: int) -> int:
    """Threads that compute so many bytes of weights on the host."""
    usual = 1 if weight_bytes < ONE_THREAD_BYTES else host.physical_cores
    return min(wishes.threads or usual, MOST_THREADS)
