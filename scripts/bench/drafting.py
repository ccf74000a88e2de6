"""One stream with a draft model against the same without, through the daemon's HTTP, taking turns in one run.

    scripts/bench/drafting [--repeats N] [--tokens N]

The model has 28 layers of random weights, of which all but the first two add nothing. So a model of those two layers
alone says the same: a draft model that is always right, for an eighth of the bytes. Another one, whose last matrix is
turned around, is always wrong: what it costs until it is left alone is the other figure. Real pairs lie in between.

What right guesses are worth depends on how much less a device takes for some rows together than one by one: on a GPU,
and for a large model on a CPU, nearly all of it; on a CPU whose cores are busy with one row, little.

    model            embedding │ 1 2 │ 3 … 28: their outputs are zero │ output
    draft, right     embedding │ 1 2 │                                │ output
    draft, wrong     embedding │ 1 2 │                                │ output, its rows in reverse order
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench.decode import LOCALLLM, alternate, daemon, fetch, milliseconds, table
from bench.inputs import CACHE, ensure_model, say
from bench.servers import free_port
from gguf import GGUFReader, GGUFValueType, GGUFWriter

NAMES = ("plain", "right", "wrong")
KEPT_LAYERS = 2
SILENT = ("attn_output.weight", "ffn_down.weight")  # what a layer adds goes through these
PROMPT = "The quick brown fox jumps over the lazy dog."
TARGET_RIGHT, TARGET_WRONG = 1.05, 0.95
Change = Callable[[str, Any], Any]  # a tensor's data by its name; None leaves it out


def write_changed(source: Path, target: Path, change: Change, layers: int | None = None) -> None:
    """`source` with other tensors, and the number of `layers` if there is one."""
    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(target.with_suffix(".partial"), architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind, value = field.types[0], field.contents()
        if layers is not None and field.name == f"{architecture}.block_count":
            value = layers
        sub_type = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, kind, sub_type=sub_type)
    for tensor in reader.tensors:
        data = change(tensor.name, tensor.data)
        if data is not None:
            writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    target.with_suffix(".partial").replace(target)


def layer_of(name: str) -> int | None:
    """The layer that a tensor is of."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blk" else None


def silenced(name: str, data: Any) -> Any:
    """A layer behind the kept ones adds nothing."""
    layer = layer_of(name)
    is_silent = layer is not None and layer >= KEPT_LAYERS and name.endswith(SILENT)
    return np.zeros_like(data) if is_silent else data


def shortened(name: str, data: Any) -> Any:
    """Only the kept layers."""
    layer = layer_of(name)
    return data if layer is None or layer < KEPT_LAYERS else None


def reversed_output(name: str, data: Any) -> Any:
    """Shortened, and it takes each token for another."""
    kept = shortened(name, data)
    return np.ascontiguousarray(data[::-1]) if name == "output.weight" else kept


def ensure_models() -> tuple[Path, Path, Path]:
    """The model and its two draft models, made once."""
    source = ensure_model("qwen3-0.6b-untied", "llama-spm")
    made = tuple(CACHE / f"drafting-{name}.gguf" for name in ("model", "right", "wrong"))
    changes: tuple[tuple[Change, int | None], ...] = (
        (silenced, None),
        (shortened, KEPT_LAYERS),
        (reversed_output, KEPT_LAYERS),
    )
    for path, (change, layers) in zip(made, changes, strict=True):
        if not path.exists():
            write_changed(source, path, change, layers)
    model, right, wrong = made
    return model, right, wrong


def one_answer(port: int, name: str, tokens: int) -> dict[str, Any]:
    """What POST /api/generate tells at the end of an answer of so many tokens."""
    options = {"temperature": 0, "num_predict": tokens}
    body: dict[str, object] = {"model": name, "prompt": PROMPT, "raw": True, "stream": False, "options": options}
    status, data = fetch(port, "POST", "/api/generate", body)
    answer: dict[str, Any] = json.loads(data)
    if status != 200 or answer.get("eval_count") != tokens:
        raise SystemExit(f"bench: POST /api/generate answered {status}: {data[:500]!r}")
    return answer


def rate(answer: dict[str, Any]) -> float:
    """Tokens per second of its decode."""
    return float(answer["eval_count"]) / (float(answer["eval_duration"]) / 1e9)


def measure(repeats: int, tokens: int) -> list[tuple[str, str, str]]:
    """All figures, as rows of the table."""
    model, right, wrong = ensure_models()
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        ours = {"LOCALLLM_HOME": folder, "LOCALLLM_HOST": f"127.0.0.1:{port}", "LOCALLLM_KEEP_ALIVE": "-1"}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LOCALLLM_")} | ours
        with daemon(environment, port):
            for name, draft in zip(NAMES, (None, right, wrong), strict=True):
                lines = [f"FROM {model}", "PARAMETER draft_p_min 0", *([f"DRAFT {draft}"] if draft else [])]
                file = Path(folder) / f"{name}.Modelfile"
                file.write_text("\n".join(lines) + "\n", encoding="utf-8")
                milliseconds([LOCALLLM, "create", name, "-f", file], environment)
            plain, with_right, with_wrong = alternate(
                repeats,
                *(lambda name=name: rate(one_answer(port, name, tokens)) for name in NAMES),  # type: ignore[misc]
            )
            right_one, wrong_one = (one_answer(port, name, tokens) for name in ("right", "wrong"))
    return [
        ("what", "tokens/s", "against the same model without"),
        ("no draft model", f"{plain:.1f}", ""),
        (
            "always right",
            f"{with_right:.1f}",
            f"{with_right / plain:.2f} (goal >= {TARGET_RIGHT}){_guesses(right_one)}",
        ),
        (
            "always wrong",
            f"{with_wrong:.1f}",
            f"{with_wrong / plain:.2f} (goal >= {TARGET_WRONG}){_guesses(wrong_one)}",
        ),
    ]


def _guesses(answer: dict[str, Any]) -> str:
    return f"; {answer.get('accepted_count', 0)} of {answer.get('drafted_count', 0)} guesses right"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="scripts/bench/drafting", description="What a draft model gains and costs.")
    parser.add_argument("--repeats", type=int, default=5, help="measured repeats of each (at least 3)")
    parser.add_argument("--tokens", type=int, default=256, help="tokens per repeat")
    chosen = parser.parse_args()
    repeats = max(3, chosen.repeats)
    say(f"{repeats} repeats of {chosen.tokens} tokens each, taking turns")
    print(table(measure(repeats, chosen.tokens)))


if __name__ == "__main__":
    main()
