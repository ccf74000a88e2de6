"""What `show` and `/show info` print about a model: indented sections of rows. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from localllm.cli.output import aligned_lines
from localllm.client_models import AdapterInfo, DraftInfo, ModelInfo, ProjectorInfo
from localllm.sizes import size_text

_LONG_TEXT_LINES = 2
_LONG_VALUE_CHARACTERS = 100


def sheet_lines(info: ModelInfo, *, verbose: bool = False) -> list[str]:
    """Model, Capabilities, Parameters, Adapters, Projector, [Metadata, Tensors], System, License, but no empty ones."""
    sections = [
        ("Model", aligned_lines(_model_rows(info))),
        ("Capabilities", list(info.capabilities or ())),
        ("Parameters", aligned_lines(_parameter_rows(info.parameters or ""))),
        ("Adapters", aligned_lines(_adapter_rows(info.adapters))),
    ]
    if info.projector is not None:
        sections.append(("Projector", aligned_lines(_projector_rows(info.projector))))
    if verbose:
        sections.append(("Metadata", aligned_lines(_metadata_rows(info))))
        sections.append(("Tensors", aligned_lines(_tensor_rows(info))))
    sections.append(("System", _first_lines(info.system)))
    sections.append(("License", _first_lines(info.license)))
    lines: list[str] = []
    for title, rows in sections:
        if rows:
            lines += [f"  {title}", *(f"    {row}" for row in rows), ""]
    return lines[:-1]


def _model_rows(info: ModelInfo) -> list[tuple[str, str]]:
    metadata = info.model_info or {}
    architecture = str(metadata.get("general.architecture") or info.details.family)
    context = metadata.get(f"{architecture}.context_length") or info.details.context_length
    rows = (
        ("architecture", architecture),
        ("parameters", info.details.parameter_size),
        ("context length", context),
        ("embedding length", metadata.get(f"{architecture}.embedding_length")),
        ("quantization", info.details.quantization_level),
        ("draft", _draft_text(info.draft) if info.draft else ""),
    )
    return [(label, str(value)) for label, value in rows if value]


def _draft_text(draft: DraftInfo) -> str:
    if draft.is_used:
        return f"{draft.file}, {size_text(draft.size)}"
    # Imported here: few models have one.
    from localllm.modelfile import DRAFT_OF_BEFORE

    return f"{draft.file} (no effect: {DRAFT_OF_BEFORE})"


def _adapter_rows(adapters: Sequence[AdapterInfo]) -> list[tuple[str, ...]]:
    return [
        (one.file, size_text(one.size), f"rank {one.rank}", f"{one.matrices} matrices", f"alpha {one.alpha:g}")
        for one in adapters
    ]


def _projector_rows(projector: ProjectorInfo) -> list[tuple[str, str]]:
    metadata = projector.info or {}
    rows = (
        ("file", projector.file),
        ("size", size_text(projector.size) if projector.size else "the file is gone"),
        ("kind", metadata.get("clip.projector_type") or metadata.get("general.architecture")),
        ("in use", "yes" if projector.is_used else "no: this version reads no images yet"),
    )
    return [(label, str(value)) for label, value in rows if value]


def _parameter_rows(parameters: str) -> list[tuple[str, str]]:
    pairs = [line.split(maxsplit=1) for line in parameters.splitlines() if line.strip()]
    return [(pair[0], pair[1] if len(pair) > 1 else "") for pair in pairs]


def _metadata_rows(info: ModelInfo) -> list[tuple[str, str]]:
    return [(key, _shortened(value)) for key, value in sorted((info.model_info or {}).items())]


def _tensor_rows(info: ModelInfo) -> list[tuple[str, str, str]]:
    return [(tensor.name, tensor.type, _shape_text(tensor.shape)) for tensor in info.tensors or ()]


def _shape_text(shape: Sequence[int]) -> str:
    return f"[{' '.join(map(str, shape))}]"


def _shortened(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _LONG_VALUE_CHARACTERS else f"{text[:_LONG_VALUE_CHARACTERS]}..."


def _first_lines(text: str | None) -> list[str]:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines if len(lines) <= _LONG_TEXT_LINES else [*lines[:_LONG_TEXT_LINES], "..."]
