"""What people say about how a model shall lie: Modelfile, options and settings as one value. None is "not said".

What is said holds, or is refused with a reason (plan.py); what is not said is the plan's to choose.
"""

from __future__ import annotations

from dataclasses import dataclass

from localllm.config import FlashAttention, KvLayout, Settings
from localllm.generation import Options
from localllm.load_options import LoadOptions
from localllm.placement.layout import TensorOverride
from localllm.sizes import Reserve

BATCH_TOKENS = 512
ALL_EXPERTS = 2**31 - 1
DEFAULT_CACHE_TYPE = "f16"
AS_USUAL = LoadOptions()
USUAL_RESERVE = Reserve()


@dataclass(frozen=True, slots=True)
class Wishes:
    """`context_tokens`: what one request must be able to have. `gpu_layers`: as llama.cpp counts them, with the output.
    `cpu_experts`: of so many layers from the first the experts stay in host memory.

    `may_quantize_cache`: keys and values may be kept as q8_0 where that saves a layer from the CPU. `shares_machine`:
    other models are to have room too. `embeds`: the model makes vectors and has no pool. `guesses`: a draft model is
    used if there is one.
    """

    parallel: int = 8
    context_tokens: int | None = None
    batch_tokens: int = BATCH_TOKENS
    threads: int | None = None
    gpu_layers: int | None = None
    main_gpu: int | None = None
    tensor_split: tuple[float, ...] | None = None
    is_single_gpu: bool = False
    cpu_experts: int | None = None
    overrides: tuple[TensorOverride, ...] = ()
    k_type: str = DEFAULT_CACHE_TYPE
    v_type: str = DEFAULT_CACHE_TYPE
    may_quantize_cache: bool = False
    flash_attention: FlashAttention = "auto"
    use_mmap: bool | None = None
    use_extra_buffers: bool = True
    kv_layout: KvLayout = "auto"
    stream_slowdown: float = 2.0
    reserve: Reserve = USUAL_RESERVE
    shares_machine: bool = True
    embeds: bool = False
    guesses: bool = True


def wishes_from(
    settings: Settings,
    options: Options,
    load: LoadOptions = AS_USUAL,
    *,
    use_extra_buffers: bool = True,
    embeds: bool = False,
) -> Wishes:
    """What a model's Modelfile says (`options`, `load`), and where it says nothing the settings."""
    parallel = load.num_parallel or settings.num_parallel
    general = settings.kv_cache_type
    is_auto = general == "auto"
    cache = DEFAULT_CACHE_TYPE if is_auto else general
    return Wishes(
        parallel=parallel,
        context_tokens=options.num_ctx or settings.context_length or None,
        # A step must have room for one row of every sequence.
        batch_tokens=max(options.num_batch or BATCH_TOKENS, parallel),
        threads=options.num_thread or settings.num_threads or None,
        gpu_layers=None if options.num_gpu is None or options.num_gpu < 0 else options.num_gpu,
        main_gpu=options.main_gpu,
        tensor_split=load.tensor_split,
        is_single_gpu=load.split_mode == "none",
        cpu_experts=_cpu_experts(load),
        overrides=tuple(map(_override, load.override_tensor or ())),
        k_type=load.cache_type_k or cache,
        v_type=load.cache_type_v or cache,
        may_quantize_cache=is_auto and load.cache_type_k is None and load.cache_type_v is None,
        flash_attention=load.flash_attn or settings.flash_attention,
        use_mmap=options.use_mmap,
        use_extra_buffers=use_extra_buffers,
        kv_layout=load.kv_layout or settings.kv_layout,
        stream_slowdown=load.stream_slowdown or settings.stream_slowdown,
        reserve=settings.reserve,
        shares_machine=settings.max_loaded_models > 1,
        embeds=embeds,
        guesses=load.draft_max != 0,
    )


def _cpu_experts(load: LoadOptions) -> int | None:
    if load.cpu_moe is not None:
        return ALL_EXPERTS if load.cpu_moe else load.n_cpu_moe or 0
    return load.n_cpu_moe


def _override(text: str) -> TensorOverride:
    pattern, _, device = text.partition("=")
    return TensorOverride(pattern, device)
