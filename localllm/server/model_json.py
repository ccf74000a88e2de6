"""Models as the JSON of /api/tags, /api/ps, /api/show and /v1/models: pure shapes.

Clients read these by field: one without `details` makes Zed drop the whole list, one without `capabilities` makes
VS Code skip the model. The context told is the one that is served, since editors budget from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from localllm.dialects.framing import NANOSECONDS, to_json
from localllm.generation import Options
from localllm.gguf import ArrayInfo, Header, Value
from localllm.gguf_adapters import AdapterFacts
from localllm.load_options import LoadOptions
from localllm.modelfile import DRAFT_OF_BEFORE, load_parameters
from localllm.paths import without_folders
from localllm.scheduler.state import QueuePlace
from localllm.server.plan_json import proven_json, sizes_of
from localllm.server.services import RunningModel
from localllm.store.model import Model

# What Ollama's arithmetic makes of "for ever": far enough for every client to write "Forever".
FOREVER = datetime(2318, 1, 1, tzinfo=UTC)
LONGEST_SHOWN_ARRAY = 5
# By its name, from which the same is made, and not by where its file lies on this machine.
_FROM = re.compile(r"^FROM .*$", re.MULTILINE)
_DRAFT = re.compile(r"^DRAFT \"?(?:.*/)?(.*?)\"?$", re.MULTILINE)
_ADAPTER = re.compile(r"^ADAPTER \"?(?:.*/)?(.*?)\"?$", re.MULTILINE)
_HIDDEN = frozenset({"general.name", "tokenizer.chat_template"})


def tag(model: Model) -> dict[str, Any]:
    """One item of /api/tags."""
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": rfc3339(model.modified_at),
        "size": model.size_bytes,
        "digest": model.digest,
        "details": details(model),
        "capabilities": list(model.capabilities),
    }


def running(entry: RunningModel, served_context: int) -> dict[str, Any]:
    """One item of /api/ps; `state`, `active`, `waiting` and `placement` are ours."""
    model, loaded = entry.model, entry.loaded
    size, size_vram = sizes_of(loaded) if loaded else (model.size_bytes, 0)
    return {
        "name": model.name,
        "model": model.name,
        "size": size,
        "digest": model.digest,
        "details": details(model),
        "expires_at": rfc3339(entry.expires_at or FOREVER),
        "size_vram": size_vram,
        "context_length": served_context,
        "state": entry.state,
        "active": entry.active,
        "waiting": entry.waiting,
    } | ({"placement": proven} if (proven := proven_json(entry.plan, loaded, entry.measured)) else {})


def queued(place: QueuePlace, *, shows_client: bool) -> dict[str, Any]:
    """One item of the `queue` of /api/ps, which is ours: nanoseconds, as Ollama's durations are."""
    eta = None if place.eta_seconds is None else round(place.eta_seconds * NANOSECONDS)
    return {
        "model": place.model,
        "position": place.position,
        "client": place.client if shows_client else "",
        "priority": place.priority,
        "waited_duration": round(place.waited_seconds * NANOSECONDS),
        "eta_duration": eta,
    }


def show(model: Model, header: Header, served_context: int, *, verbose: bool) -> dict[str, Any]:
    """The answer of /api/show."""
    return {
        "license": model.license or "",
        "modelfile": _modelfile(model),
        "parameters": parameters_text(model.options, model.load),
        "template": model.chat_template or "",
        "system": model.system or "",
        "details": details(model),
        "messages": [{"role": message.role, "content": message.content} for message in model.messages],
        "model_info": model_info(header, served_context, verbose=verbose),
        "tensors": [{"name": t.name, "type": t.type_name, "shape": list(t.shape)} for t in header.tensors],
        "capabilities": list(model.capabilities),
        "modified_at": rfc3339(model.modified_at),
    } | ({"requires": model.requires} if model.requires else {})


def _modelfile(model: Model) -> str:
    """With the model's own name in FROM, with which its adapters and its draft model come."""
    text = _FROM.sub(lambda _: f"FROM {model.name}", model.modelfile, count=1)
    # They stand before all texts, in which a line may begin with the same words; a count of 0 would be every line.
    if model.adapters:
        text = _ADAPTER.sub(r"# ADAPTER \1 (comes with FROM)", text, count=len(model.adapters))
    if not model.draft:
        return text
    remark = "comes with FROM" if model.draft_model else f"no effect: {DRAFT_OF_BEFORE}"
    return _DRAFT.sub(rf"# DRAFT \1 ({remark})", text, count=1)


def draft(model: Model) -> dict[str, Any]:
    """What /api/show says of a draft model: {} without one. Ours, as the projector's words are."""
    if model.draft_model is not None:
        size = model.draft_model.stat().st_size
        return {"draft": {"file": model.draft_model.name, "said": model.draft or "", "size": size, "is_used": True}}
    if model.draft:
        return {"draft": {"file": Path(model.draft).name, "said": model.draft, "size": 0, "is_used": False}}
    return {}


def adapters(found: Sequence[tuple[Path, AdapterFacts]]) -> dict[str, Any]:
    """What /api/show says of a model's adapters: {} without one. Ours; `alpha` 0 is the weights as they are."""
    if not found:
        return {}
    return {
        "adapters": [
            {
                "file": path.name,
                "size": path.stat().st_size,
                "rank": facts.rank,
                "alpha": facts.alpha,
                "matrices": facts.matrices,
            }
            for path, facts in found
        ]
    }


def projector(model: Model, header: Header | None, *, verbose: bool) -> dict[str, Any]:
    """What /api/show says of a model's projector: {} without one; `size` 0 when its file is gone.

    Not under Ollama's `projector_info`, from which clients conclude that images can be sent.
    """
    if model.projector is None:
        return {}
    metadata = header.metadata if header else {}
    info = {key: _json_value(value, verbose) for key, value in metadata.items() if key not in _HIDDEN}
    size = header.file_size_bytes if header else 0
    return {"projector": {"file": model.projector.name, "size": size, "is_used": False, "info": info}}


def openai_model(model: Model) -> dict[str, Any]:
    """One item of /v1/models."""
    created = int(model.modified_at.timestamp())
    return {"id": model.name, "object": "model", "created": created, "owned_by": "library"}


def anthropic_model(model: Model) -> dict[str, Any]:
    """One item of /v1/models for Anthropic's clients."""
    return {
        "type": "model",
        "id": model.name,
        "display_name": model.facts.name or model.name,
        "created_at": rfc3339(model.modified_at),
        "lifecycle": "active",
        "max_input_tokens": model.context_length or None,
    }


def anthropic_models(models: Sequence[Model]) -> dict[str, Any]:
    """All of them, on the one page there is."""
    data = [anthropic_model(model) for model in models]
    ids = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"data": data, "has_more": False, **ids}


def details(model: Model) -> dict[str, Any]:
    """What a file is, in the words of Ollama's `details`."""
    return {
        "parent_model": without_folders(model.parent or ""),
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization_level,
        "context_length": model.context_length,
        "embedding_length": model.embedding_length,
    }


def model_info(header: Header, served_context: int, *, verbose: bool) -> dict[str, Any]:
    """The file's metadata, long arrays as [], with the number of parameters and the context that is served."""
    info = {key: _json_value(value, verbose) for key, value in header.metadata.items() if key not in _HIDDEN}
    info["general.architecture"] = header.architecture
    info["general.parameter_count"] = header.parameter_count
    if served_context:
        info[f"{header.architecture}.context_length"] = served_context
    return info


def parameters_text(options: Options, load: LoadOptions) -> str:
    """A line per value, `%-30s %#v` in Go's terms; clients take each line apart at the first blanks."""
    lines: list[str] = []
    for name in Options.__struct_fields__:
        value = getattr(options, name)
        if value is None or name == "logit_bias":
            continue
        values = value if isinstance(value, tuple) else (value,)
        lines += [f"{name:<30} {_go_value(item)}" for item in values]
    lines += [f"{name:<30} {text}" for name, text in load_parameters(load)]
    return "\n".join(lines)


def served_context(model: Model, configured: int, pool_tokens: int | None) -> int:
    """Tokens one request can have: what was trained, configured and, once loaded, allocated. 0 is unknown."""
    limits = [tokens for tokens in (model.context_length, configured, pool_tokens) if tokens]
    return min(limits, default=0)


def rfc3339(moment: datetime) -> str:
    """UTC with microseconds, "Z" at the end."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _json_value(value: Value, verbose: bool) -> Any:
    if isinstance(value, ArrayInfo):
        return []
    if isinstance(value, tuple):
        return (
            [] if len(value) > LONGEST_SHOWN_ARRAY and not verbose else [_json_value(item, verbose) for item in value]
        )
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _go_value(value: object) -> str:
    if isinstance(value, str):
        return to_json(value).decode()
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value).removesuffix(".0")
