"""Asks engine/measure in a child: what would a model take, laid out so? llama.cpp's own figures, before it is loaded.

A file that is not here yet can be measured too: its header is all that llama.cpp reads, so a sparse file that begins
with it and is as long as the real one will do.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from localllm.errors import LoadError
from localllm.placement.layout import BufferBytes, Layout, Measured
from localllm.placement.shape import ContextShape
from localllm.runner.child import answer_in, run_child
from localllm.runner.death import death_from

MEASURE_SECONDS = 60.0


class _Answer(msgspec.Struct, frozen=True):
    """engine/measure's line of JSON."""

    ok: bool
    buffers: tuple[BufferBytes, ...] = ()
    is_exact: bool = False
    error: str = ""


def measure_command() -> tuple[str, ...]:
    """The program that measures; its question is the last argument."""
    return (sys.executable, "-P", "-m", "localllm.engine.measure")


async def measure(
    model: Path,
    layout: Layout,
    shape: ContextShape,
    environment: Mapping[str, str],
    *,
    command: Sequence[str] = (),
    from_log: bool = False,
    adapters: Sequence[Path] = (),
) -> Measured:
    """llama.cpp's figures for one layout. Raises LoadError for a file or a layout that it refuses.

    Where its account cannot be walked and the child dies of it, the figures come from log lines, and are not exact.
    """
    question = {"model": str(model), "layout": layout, "shape": shape, "from_log": from_log}
    question["adapters"] = [str(path) for path in adapters]
    program = (*(command or measure_command()), msgspec.json.encode(question).decode())
    try:
        return_code, output = await run_child(program, environment, MEASURE_SECONDS)
    except TimeoutError:
        raise LoadError(f"the measurement did not end within {MEASURE_SECONDS:g} s") from None
    except OSError as error:
        raise LoadError(f"the measurement could not be started: {error.strerror}") from error
    answer = answer_in(output, _Answer)
    if answer is not None and answer.ok:
        return Measured(layout, shape, answer.buffers, answer.is_exact)
    if answer is None and not from_log and return_code < 0:
        return await measure(model, layout, shape, environment, command=command, from_log=True, adapters=adapters)
    death = death_from(return_code, tuple(output.decode("utf-8", "replace").splitlines()))
    raise LoadError(f"the layout cannot be measured: {answer.error if answer else death.cause}")
