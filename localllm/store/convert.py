"""Convert a folder of safetensors, a model or an adapter, to a GGUF: with llama.cpp's own converter, in a process.

    reading safetensors ─▶ [fetching llama.cpp's converter, once] ─▶ converting 2.2 GB of LlamaForCausalLM to BF16 …

Owns no name and no file: it writes where it is told, and create.py checks and keeps what came out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import msgspec

from localllm.creating import (
    BytesWritten,
    Converted,
    ConverterFetched,
    ConverterPlace,
    ConverterSaid,
    ConvertEvent,
    ConvertRequest,
    CreateEvent,
    CreateProgress,
    FetchEvent,
)
from localllm.errors import LocalllmError, UnsupportedError
from localllm.failures import error_from
from localllm.generation import Failed
from localllm.pulling import PullProgress, PullStatus
from localllm.sizes import size_text
from localllm.store.blobs import refuse_too_large
from localllm.store.converter import converter_dir, is_whole, refuse_missing_libraries
from localllm.store.peft import adapter_bytes
from localllm.store.processes import ProcessEndedError, lines_from
from localllm.store.quantize import TARGETS
from localllm.store.safetensors import WIDTHS, Weights, read_weights

_FETCH = "localllm.store.fetch_converter"
_CONVERT = "localllm.convert.process"
# Types of file that the converter writes itself. It has others, which llama.cpp's quantizer makes better.
DIRECT = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_fetch_events: msgspec.json.Decoder[FetchEvent] = msgspec.json.Decoder(FetchEvent)
_convert_events: msgspec.json.Decoder[ConvertEvent] = msgspec.json.Decoder(ConvertEvent)


def out_type(weights: Weights, target: str | None) -> str:
    """The type to convert to, as the converter calls it, where `target` is wanted in the end.

    Weights that are to be quantized are not rounded to 16 bits before.
    """
    if target in DIRECT:
        return DIRECT[target]
    return "f32" if target is not None and weights.half_type is None else "auto"


def type_name(weights: Weights, wanted: str) -> str:
    """What the file will be: "auto" is the type the weights have, F16 for those with more bits."""
    return (weights.half_type or "F16") if wanted == "auto" else wanted.upper()


def converted_bytes(weights: Weights, wanted: str) -> int:
    """How long the converted file will be, roughly: vectors stay in 32 bits."""
    width = WIDTHS[type_name(weights, wanted)]
    return sum(weights.elements.values()) * width + weights.other_elements * 4


def arguments(folder: Path, weights: Weights, wanted: str) -> tuple[str, ...]:
    """What the converter is told of the model in `folder`, which it calls by the folder's name if nothing else says.

    A folder of the hub's cache has a commit for its name; the repository's stands above it.
    """
    drafts = ("--no-mtp",) if weights.lacks_drafts else ()
    repository = folder.parents[1].name if folder.parent.name == "snapshots" else ""
    name = ("--model-name", repository.rpartition("--")[2]) if repository.startswith("models--") else ()
    return ("--outtype", wanted, *drafts, *name, str(folder))


async def convert(
    folder: Path, place: ConverterPlace, target: str | None, file: Path
) -> AsyncGenerator[CreateEvent, None]:
    """Write the model in `folder` to `file`, of the type `target` or for being quantized to it.

    Raises ModelFileError and UnsupportedError for what cannot be converted, DiskFullError, HubError's kinds.
    """
    yield PullStatus("reading safetensors")
    weights = await asyncio.to_thread(read_weights, folder)
    wanted = out_type(weights, target)
    expected, quantized = converted_bytes(weights, wanted), 0
    if target is not None and target not in DIRECT:
        quantized = int((sum(weights.elements.values()) + weights.other_elements) * TARGETS[target][1] / 8)
    await asyncio.to_thread(refuse_too_large, file.parent, expected + quantized)
    if weights.more_than_text:
        yield PullStatus("the model reads more than text; only what reads and writes text is converted")
    request = ConvertRequest(
        converter=str(converter_dir(place)),
        script=place.release.script,
        libraries=place.release.libraries,
        folders=(str(folder),),
        target=str(file),
        arguments=arguments(folder, weights, wanted),
    )
    name = f"{size_text(weights.size_bytes)} of {weights.architecture} to {type_name(weights, wanted)}"
    async with aclosing(_with_converter(place, request, f"converting {name}", expected)) as events:
        async for event in events:
            yield event


async def convert_adapter(
    folder: Path, model: Path | None, place: ConverterPlace, file: Path
) -> AsyncGenerator[CreateEvent, None]:
    """Write the adapter in `folder` to `file`; the config.json in `model` says what it changes. Raises as convert."""
    expected = await asyncio.to_thread(adapter_bytes, folder)
    if model is None:
        raise UnsupportedError(
            f"what the adapter in {folder} changes is in its model's config.json, and that is not here",
            hint=f"put the config.json of the original model into {folder}, or name that model's folder in FROM",
        )
    await asyncio.to_thread(refuse_too_large, file.parent, expected)
    request = ConvertRequest(
        converter=str(converter_dir(place)),
        script=place.release.adapter_script,
        libraries=place.release.libraries,
        folders=(str(folder), str(model)),
        target=str(file),
        arguments=("--outtype", "f32", "--base", str(model), str(folder)),
    )
    async with aclosing(_with_converter(place, request, f"converting the adapter {folder.name}", expected)) as events:
        async for event in events:
            yield event


async def _with_converter(
    place: ConverterPlace, request: ConvertRequest, text: str, expected: int
) -> AsyncGenerator[CreateEvent, None]:
    """See that all is there that a conversion needs, and carry it out."""
    await asyncio.to_thread(refuse_missing_libraries, place.release)
    async with aclosing(_fetched(place)) as fetching:
        async for event in fetching:
            yield event
    async with aclosing(_converted(request, text, expected)) as converting:
        async for event in converting:
            yield event


async def _fetched(place: ConverterPlace) -> AsyncGenerator[CreateEvent, None]:
    """See to it that the converter is there."""
    if await asyncio.to_thread(is_whole, converter_dir(place)):
        return
    async with aclosing(lines_from(_FETCH, place)) as lines:
        async for line in lines:
            match _fetch_events.decode(line):
                case PullStatus() as status:
                    yield status
                case PullProgress(total_bytes=total, completed_bytes=completed):
                    yield CreateProgress("fetching llama.cpp's converter", total, completed)
                case ConverterFetched():
                    return
                case Failed() as failed:
                    raise error_from(failed)


async def _converted(request: ConvertRequest, text: str, expected: int) -> AsyncGenerator[CreateEvent, None]:
    yield CreateProgress(text, expected, 0)
    try:
        async with aclosing(lines_from(_CONVERT, request)) as lines:
            async for line in lines:
                match _convert_events.decode(line):
                    case BytesWritten(size_bytes=size):
                        yield CreateProgress(text, expected, min(size, expected))
                    case ConverterSaid(text=said):
                        yield PullStatus(f"the converter warns: {said}")
                    case Converted():
                        yield CreateProgress(text, expected, expected)
                        return
                    case Failed() as failed:
                        raise error_from(failed)
    except ProcessEndedError as error:
        raise _died(error) from error


def _died(error: ProcessEndedError) -> LocalllmError:
    if error.exit_code == -9:
        return LocalllmError(
            "the process that converts was ended from outside, as the system does when memory runs out",
            hint="end other programs, or stop loaded models (localllm stop), and try again",
        )
    return LocalllmError(
        f"the process that converts died ({error.exit_code})",
        hint="pull a GGUF that somebody converted: localllm search WORD",
    )
