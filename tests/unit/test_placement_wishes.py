"""What is said about how a model shall lie: the Modelfile before the settings, these before what the machine has."""

from __future__ import annotations

import pytest

from localllm.config import load_settings
from localllm.errors import ConfigError
from localllm.generation import Options
from localllm.load_options import LoadOptions
from localllm.placement.devices import Host
from localllm.placement.layout import TensorOverride
from localllm.placement.plan import plan_unseen
from localllm.placement.wishes import ALL_EXPERTS, wishes_from
from localllm.sizes import Reserve, parse_reserve

HOST = Host(physical_cores=6, total_bytes=16 * 2**30, available_bytes=8 * 2**30)


def settings(**variables: str):
    return load_settings({"LOCALLLM_HOME": "/nowhere", "LOCALLLM_NUM_PARALLEL": "2", **variables})


NOTHING, AS_USUAL = Options(), LoadOptions()


def unseen(options: Options = NOTHING, load: LoadOptions = AS_USUAL, file_bytes: int = 4 * 10**9, **variables):
    """The figures of the plan for a model whose header nobody read."""
    plan = plan_unseen(HOST, wishes_from(settings(**variables), options, load), file_bytes)
    return (
        plan.parallel, plan.shape.cells, plan.pool_bytes_limit, plan.shape.batch_tokens, plan.threads,
        plan.layout.gpu_layers, plan.layout.use_mmap, plan.kv_layout, plan.stream_slowdown,
    )  # fmt: skip


def test_a_model_file_says_more_than_the_settings_and_these_more_than_the_host():
    assert (2, 0, 2 * 2**30, 512, 6, -1, True, "auto", 2.0) == unseen()
    options = Options(num_thread=3, num_batch=64, num_gpu=0, use_mmap=False, num_ctx=1024)
    assert (2, 0, 2 * 2**30, 64, 3, 0, False, "auto", 2.0) == unseen(options)
    load = LoadOptions(num_parallel=5, kv_layout="streams", stream_slowdown=3.0)
    assert (5, 0, 2 * 2**30, 512, 6, -1, True, "streams", 3.0) == unseen(load=load)


def test_a_very_small_model_gets_one_thread_unless_somebody_asks_for_more():
    assert 1 == unseen(file_bytes=3 * 10**6)[4]
    assert 4 == unseen(Options(num_thread=4), file_bytes=3 * 10**6)[4]


def test_a_step_has_room_for_a_row_of_every_sequence():
    assert 200 == wishes_from(settings(), Options(num_batch=8), LoadOptions(num_parallel=200)).batch_tokens


def test_launch_options_and_settings_become_wishes():
    said = wishes_from(
        settings(LOCALLLM_KV_CACHE_TYPE="q8_0", LOCALLLM_RESERVE="10%", OLLAMA_FLASH_ATTENTION="0"),
        Options(num_gpu=-1, main_gpu=1),
        LoadOptions(cache_type_v="f16", cpu_moe=True, n_cpu_moe=3, override_tensor=("ffn_up=CPU",), split_mode="none"),
    )
    assert ("q8_0", "f16", "off", Reserve(0.1, 0)) == (said.k_type, said.v_type, said.flash_attention, said.reserve)
    assert (None, 1, ALL_EXPERTS, True) == (said.gpu_layers, said.main_gpu, said.cpu_experts, said.is_single_gpu)
    assert (TensorOverride("ffn_up", "CPU"),) == said.overrides


def test_fewer_bits_for_keys_and_values_are_allowed_only_by_auto():
    auto = wishes_from(settings(LOCALLLM_KV_CACHE_TYPE="auto"), Options())
    assert ("f16", True) == (auto.k_type, auto.may_quantize_cache)
    assert not wishes_from(settings(), Options()).may_quantize_cache
    said = wishes_from(settings(OLLAMA_KV_CACHE_TYPE="auto"), Options(), LoadOptions(cache_type_k="q8_0"))
    assert ("q8_0", "f16", False) == (said.k_type, said.v_type, said.may_quantize_cache)


def test_a_reserve_is_a_share_an_amount_or_both():
    assert Reserve(0.05, 300 * 2**20) == parse_reserve("5%+300MiB")
    assert 2_000 == parse_reserve("10%+1KB").of(10_000)
    assert Reserve(0.0, 5) == parse_reserve("5")
    for text in ("100%", "-1%", "x", "nan%", "5%+"):
        with pytest.raises(ValueError, match=r".+"):
            parse_reserve(text)
    with pytest.raises(ConfigError, match="LOCALLLM_RESERVE is 'all', but must be a share, an amount or both"):
        settings(LOCALLLM_RESERVE="all")
