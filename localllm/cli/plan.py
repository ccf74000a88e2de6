"""`plan`: how a model would lie on this machine, or on another, before it is loaded or even pulled."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from localllm.cli.daemonize import connect
from localllm.cli.output import screen_of
from localllm.cli.plan_sheet import alternative_rows, plan_lines
from localllm.cli.run import is_path
from localllm.client_plans import PlanBody
from localllm.config import load_settings
from localllm.errors import ConfigError, DoesNotFitError

_ALTERNATIVES = ("OTHERWISE", "PLACE", "SIZE", "POOL", "TOKENS/S", "PROMPTS")


def plan(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name, pulled or not, or a path to a .gguf file")],
    ctx: Annotated[int | None, typer.Option("--ctx", min=1, metavar="TOKENS", help="The context of a request")] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", min=1, max=256, metavar="N", help="Requests served at once")
    ] = None,
    kv: Annotated[
        str | None, typer.Option("--kv", metavar="TYPE", help="How keys and values are kept, such as q8_0")
    ] = None,
    gpu_layers: Annotated[
        int | None, typer.Option("--gpu-layers", min=0, metavar="N", help="Layers on GPUs, the output as one of them")
    ] = None,
    quant: Annotated[str, typer.Option("--quant", help="Which quantisation of a repository, such as Q8_0")] = "",
    device_file: Annotated[
        Path | None, typer.Option("--device-file", metavar="FILE", help="Plan for the machine in this file instead")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Show where a model would lie, how fast it should be, and what else could be done."""
    screen, settings = screen_of(os.environ), load_settings(os.environ)
    if is_path(model):
        # Imported here: a name needs neither the store nor the GGUF reader.
        from localllm.cli.register import register_file

        model = register_file(Path(model), None, settings).name
    body = PlanBody(model, _options(ctx, gpu_layers), _parameters(parallel, kv), quant, _devices(device_file))
    with connect(settings, screen) as client:
        answer = client.plan(body)
    if json:
        screen.json(answer)
    else:
        screen.out(screen.clean("".join(f"{line}\n" for line in plan_lines(answer, screen.columns))))
        if rows := alternative_rows(answer):
            screen.out("\n")
            screen.table(_ALTERNATIVES, rows)
    if answer.plan is None:
        raise DoesNotFitError(answer.error, answer.missing, hint=answer.hint)


def _options(ctx: int | None, gpu_layers: int | None) -> dict[str, Any]:
    said = {"num_ctx": ctx, "num_gpu": gpu_layers}
    return {name: value for name, value in said.items() if value is not None}


def _parameters(parallel: int | None, kv: str | None) -> dict[str, Any]:
    said = {"num_parallel": parallel, "kv_cache_type": kv}
    return {name: value for name, value in said.items() if value is not None}


def _devices(file: Path | None) -> Any:
    if file is None:
        return None
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    # Imported here: without a device file nobody needs it. The daemon reads it too, but knows no name of the file.
    from localllm.placement.device_file import parse_devices

    parse_devices(data, str(file))
    return msgspec.json.decode(data)
