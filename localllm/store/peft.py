"""A folder with a LoRA adapter in safetensors, as PEFT saves it: looked at before it is converted.

    adapter_config.json           what kind of adapter it is
    adapter_model.safetensors     its matrices

llama.cpp knows the plain kind: the product of two matrices, times alpha by rank, the same for all. What its converter
would leave out without a word, so that the model says something else than it was taught, is refused here by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from localllm.errors import ModelFileError, UnsupportedError
from localllm.store.safetensors import read_header, read_json, shown

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_HARMLESS_STARTS = ("gaussian", "eva", "orthogonal")  # the others move a part of the model into the adapter
_MERGE = "merge the adapter into its model with PEFT (merge_and_unload), save that, and name its folder in FROM"


class _Config(msgspec.Struct):
    peft_type: str = ""
    use_dora: bool | None = False
    use_rslora: bool | None = False
    use_qalora: bool | None = False
    use_bdlora: bool | None = False
    fan_in_fan_out: bool | None = False
    lora_bias: bool | None = False
    bias: str | None = "none"
    alpha_pattern: dict[str, Any] | None = None
    init_lora_weights: Any = True
    layer_replication: Any = None
    kasa_config: Any = None
    monteclora_config: Any = None
    velora_config: Any = None
    alora_invocation_tokens: Any = None
    invocation_string: Any = None
    modules_to_save: list[str] | None = None
    trainable_token_indices: Any = None


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds an adapter in safetensors."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def adapter_bytes(folder: Path) -> int:
    """How long the converted adapter will be, roughly. Raises ModelFileError and UnsupportedError."""
    try:
        config = read_json(folder / CONFIG, _Config)
        tensors = read_header(folder / WEIGHTS)
    except OSError as error:
        raise ModelFileError(f"{error.filename or folder} cannot be read: {error.strerror}") from error
    if reasons := _left_out(config):
        raise UnsupportedError(
            f"the adapter in {folder} cannot be applied as it was trained: {shown(reasons)}", hint=_MERGE
        )
    return sum(tensor.elements * 4 for tensor in tensors.values())


def _left_out(config: _Config) -> list[str]:
    """What llama.cpp would not do."""
    start = config.init_lora_weights
    variants = ("use_bdlora", "kasa_config", "monteclora_config", "velora_config", "layer_replication")
    found: dict[str, object] = {f"it is a variant ({name})": getattr(config, name) for name in variants}
    found |= {
        f"it was begun with a part of the model (init_lora_weights: {start})": isinstance(start, str)
        and start not in _HARMLESS_STARTS,
        f"it is of the type {config.peft_type or 'unknown'}, not LORA": config.peft_type.upper() != "LORA",
        "it is a DoRA (use_dora)": config.use_dora,
        "it scales by the root of its rank (use_rslora)": config.use_rslora,
        "it is a QALoRA (use_qalora)": config.use_qalora,
        "it has matrices the other way round (fan_in_fan_out)": config.fan_in_fan_out,
        "it has biases": config.lora_bias or config.bias not in (None, "none"),
        "its strength differs from matrix to matrix (alpha_pattern)": config.alpha_pattern,
        "it begins to apply at certain words (aLoRA)": config.alora_invocation_tokens or config.invocation_string,
        "it brings whole layers (modules_to_save)": config.modules_to_save,
        "it brings tokens (trainable_token_indices)": config.trainable_token_indices,
    }
    return [reason for reason, is_so in found.items() if is_so]
