"""Folders with LoRA adapters in safetensors: what would not be applied as it was trained is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors_files import safetensors_bytes

from localllm.errors import ModelFileError, UnsupportedError
from localllm.store.peft import adapter_bytes, is_adapter_folder

TENSORS = {"base_model.model.x.lora_A.weight": ("BF16", (4, 8)), "base_model.model.x.lora_B.weight": ("F32", (8, 4))}
PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "use_dora": False, "rank_pattern": {"x": 2}}


def trained(folder: Path, **config: object) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({**PLAIN, **config}))
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(TENSORS))
    return folder


def test_a_plain_adapter_is_converted_to_32_bits(tmp_path):
    folder = trained(tmp_path / "a", alpha_pattern={}, modules_to_save=None, init_lora_weights="gaussian")
    assert is_adapter_folder(folder)
    assert 2 * 32 * 4 == adapter_bytes(folder)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"peft_type": "LOHA"}, "it is of the type LOHA, not LORA"),
        ({"peft_type": ""}, "it is of the type unknown, not LORA"),
        ({"use_dora": True}, "it is a DoRA (use_dora)"),
        ({"use_rslora": True}, "it scales by the root of its rank (use_rslora)"),
        ({"use_bdlora": True}, "it is a variant (use_bdlora)"),
        ({"layer_replication": [[0, 1]]}, "it is a variant (layer_replication)"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "it was begun with a part of the model (init_lora_weights: pissa_niter_4)",
        ),
        ({"use_qalora": True}, "it is a QALoRA (use_qalora)"),
        ({"fan_in_fan_out": True}, "it has matrices the other way round (fan_in_fan_out)"),
        ({"bias": "all"}, "it has biases"),
        ({"lora_bias": True}, "it has biases"),
        ({"alpha_pattern": {"q_proj": 4}}, "its strength differs from matrix to matrix (alpha_pattern)"),
        ({"alora_invocation_tokens": [1]}, "it begins to apply at certain words (aLoRA)"),
        ({"modules_to_save": ["lm_head"]}, "it brings whole layers (modules_to_save)"),
        ({"trainable_token_indices": [1]}, "it brings tokens (trainable_token_indices)"),
    ],
)
def test_what_would_be_left_out_is_refused_by_name(tmp_path, config, reason):
    with pytest.raises(UnsupportedError) as refused:
        adapter_bytes(trained(tmp_path / "a", **config))
    assert refused.value.message.endswith(f"cannot be applied as it was trained: {reason}")
    assert "merge_and_unload" in (refused.value.hint or "")


def test_a_damaged_adapter_is_told_as_one(tmp_path):
    folder = trained(tmp_path / "a")
    (folder / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(ModelFileError, match="is cut short, or no safetensors"):
        adapter_bytes(folder)
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(ModelFileError, match=r"adapter_config\.json cannot be read"):
        adapter_bytes(folder)


def test_a_folder_without_one_of_the_two_files_is_none(tmp_path):
    folder = trained(tmp_path / "a")
    (folder / "adapter_config.json").unlink()
    assert not is_adapter_folder(folder)
