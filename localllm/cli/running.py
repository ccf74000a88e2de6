"""`ps` and `stop`: the models that are loaded now."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from localllm.cli.daemonize import connect
from localllm.cli.figures import nanoseconds_text, processor_text, until_text
from localllm.cli.output import screen_of
from localllm.client import QueuedRequest, RunningModel
from localllm.config import load_settings
from localllm.errors import LocalllmError, ModelNotFoundError
from localllm.sizes import size_text

_HEADERS = ("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL")
_MEMORY_HEADERS = ("NAME", "DEVICE", "LAYERS", "WEIGHTS", "CACHE", "COMPUTING", "PLANNED / TAKEN", "FOR MODELS")
_QUEUE_HEADERS = ("ACTIVE", "WAITING")
_WAITING_HEADERS = ("MODEL", "POSITION", "CLIENT", "CLASS", "WAITED", "STARTS IN")


def ps(
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Only names that start so")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
    queue: Annotated[bool, typer.Option("--queue", help="List the requests that wait instead")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="Show what lies where, planned and measured")] = False,
) -> None:
    """List the models that are loaded, loading or stopping, or the requests that wait for one."""
    screen = screen_of(os.environ)
    with connect(load_settings(os.environ), screen) as client:
        if queue:
            waiting = [one for one in client.queue() if one.model.lower().startswith(prefix.lower())]
            if json:
                screen.json(waiting)
            else:
                screen.table(_WAITING_HEADERS, queue_rows(waiting))
            return
        models = [model for model in client.ps() if model.name.lower().startswith(prefix.lower())]
    if json:
        screen.json(models)
        return
    if memory:
        screen.table(_MEMORY_HEADERS, memory_rows(models))
        return
    screen.table(*ps_table(models, datetime.now(UTC)))


def stop(model: Annotated[str, typer.Argument(metavar="MODEL", help="A name that `localllm ps` shows")]) -> None:
    """Unload a model once its running requests are done."""
    screen = screen_of(os.environ)
    with connect(load_settings(os.environ), screen) as client:
        try:
            client.stop(model)
        except ModelNotFoundError as error:
            raise LocalllmError(
                f'couldn\'t find model "{model}" to stop', hint="`localllm ps` shows the loaded models"
            ) from error
    screen.out(f"stopped '{model}'\n")


def queue_rows(waiting: Sequence[QueuedRequest]) -> list[tuple[str, ...]]:
    """A row per request that waits, next first."""
    return [
        (
            one.model,
            str(one.position),
            one.client or "-",
            one.priority,
            nanoseconds_text(one.waited_duration),
            "-" if one.eta_duration is None else f"about {nanoseconds_text(one.eta_duration)}",
        )
        for one in waiting
    ]


def fallback_text(model: RunningModel) -> str:
    """Why a model is not all on a GPU, where that was meant: ": the engine was built without CUDA"."""
    return f": {model.placement.fallback}" if model.placement and model.placement.fallback else ""


def memory_rows(models: Sequence[RunningModel]) -> list[tuple[str, ...]]:
    """What each model was to take of each device, and what it took."""
    rows: list[tuple[str, ...]] = []
    for model in models:
        for share in model.placement.devices if model.placement else ():
            measured = share.measured
            parts = (("weights", share.weights), ("cache", share.cache), ("compute", share.compute))
            figures = [
                f"{size_text(planned)} / {size_text(getattr(measured, name)) if measured else '-'}"
                for name, planned in parts
            ]
            real = measured.total if measured else None
            total = f"{size_text(share.total)} / {'-' if real is None else size_text(real)}"
            rows.append((model.name, share.device, str(share.layers), *figures, total, size_text(share.budget)))
    return rows


def ps_table(models: Sequence[RunningModel], now: datetime) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and rows; the queue's columns only when the daemon says something about it."""
    has_queue = not models or any(model.active is not None for model in models)
    rows = [
        (
            model.name,
            model.digest[:12],
            size_text(model.size),
            processor_text(model.size, model.size_vram) + fallback_text(model),
            str(model.context_length or "-"),
            until_text(model.expires_at, now, model.state),
            *((str(model.active or 0), str(model.waiting or 0)) if has_queue else ()),
        )
        for model in models
    ]
    return _HEADERS + (_QUEUE_HEADERS if has_queue else ()), rows
