"""Carry a create out, step by step: find the base, write its weights anew if that is wanted, then the manifest.

    [the template is tried] ─▶ [safetensors are converted] ─▶ parsing GGUF ─▶ [adapters are converted]
                 ─▶ [checking adapters] ─▶ [checking draft model] ─▶ [quantizing F16 model to Q4_K_M …]
                 ─▶ writing manifest ─▶ success

The name is visible once everything is there; whoever stops in between leaves what the name stood for before.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

import msgspec

from localllm.creating import (
    SUCCESS,
    AdapterCheck,
    CheckEvent,
    CheckRequest,
    CreateEvent,
    CreateProgress,
    Creation,
    DraftCheck,
)
from localllm.errors import ModelFileError, TemplateError, UnsupportedError
from localllm.generation import Failed
from localllm.gguf import TensorInfo
from localllm.modelfile import Modelfile
from localllm.pulling import PullStatus
from localllm.store.blobs import BlobWriter
from localllm.store.convert import DIRECT, convert, convert_adapter
from localllm.store.manifest import Manifest
from localllm.store.model import Model
from localllm.store.peft import adapter_bytes
from localllm.store.processes import ProcessEndedError, lines_from
from localllm.store.quantize import QuantizedFile, Source, parse_target, quantize

P = ParamSpec("P")
T = TypeVar("T")
CHECK_SECONDS = 10.0
LLAMA_SECONDS = 120.0  # vocabularies are read, and no weights
_CHECK = "localllm.chat.check"
_ADAPTER_CHECK = "localllm.engine.llama_adapters"
_DRAFT_CHECK = "localllm.engine.llama_draft"
_OTHER_ADAPTER = (
    "make it anew with llama.cpp's convert_lora_to_gguf.py, or merge it into the model with llama-export-lora"
)
_OTHER_DRAFT = "name a small model of the same family as DRAFT"
_checked: msgspec.json.Decoder[CheckEvent] = msgspec.json.Decoder(CheckEvent)


class CreatingStore(Protocol):
    """What a create needs of store.Store."""

    def refuse_unwritable(self, name: str) -> None: ...
    def base(self, creation: Creation) -> Manifest: ...
    def with_adapters(self, base: Manifest, files: Sequence[str]) -> tuple[Manifest, tuple[str, ...]]: ...
    def with_draft(self, base: Manifest, file: str) -> Manifest: ...
    def create(self, base: Manifest, settings: Modelfile) -> Model: ...
    def tensors(self, base: Manifest) -> Sequence[TensorInfo]: ...
    def with_file(self, base: Manifest, file: Path) -> Manifest: ...
    def drop_blobs(self, files: Sequence[str]) -> None: ...
    @property
    def blobs_dir(self) -> Path: ...


class InStore(Protocol):
    """Runs a method of the store where that may touch the disk."""

    async def __call__(self, work: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T: ...


async def create(store: CreatingStore, in_store: InStore, creation: Creation) -> AsyncGenerator[CreateEvent, None]:
    """The events of one create; the last is SUCCESS. Raises what Store.base and convert do, and UnsupportedError."""
    refuse_unsupported(creation.settings)
    target = parse_target(creation.quantization) if creation.quantization else None
    await in_store(store.refuse_unwritable, creation.name)
    for adapter in map(Path, creation.adapters):
        if await asyncio.to_thread(adapter.is_dir):
            await asyncio.to_thread(adapter_bytes, adapter)  # what cannot be applied is refused before the long work
    if creation.folder is None or creation.converter is None:
        async with aclosing(_create(store, in_store, creation, target, None)) as events:
            async for event in events:
                yield event
        return
    if creation.settings.template:  # tried before the long work, and not only after it
        await check_template(creation.settings.template)
    with await asyncio.to_thread(BlobWriter, store.blobs_dir) as writer:
        async with aclosing(convert(Path(creation.folder), creation.converter, target, writer.path)) as converting:
            async for event in converting:
                yield event
        converted = dataclasses.replace(creation, files=(str(writer.path),))
        if target in DIRECT:
            target = None
        async with aclosing(_create(store, in_store, converted, target, writer)) as events:
            async for event in events:
                yield event


async def _create(
    store: CreatingStore, in_store: InStore, creation: Creation, target: str | None, converted: BlobWriter | None
) -> AsyncGenerator[CreateEvent, None]:
    """Make the model of what is there by now; `converted` is what its file was written with, which nobody else sees."""
    yield PullStatus("parsing GGUF")
    base = await _base(store, in_store, creation, converted)
    if creation.settings.template:
        await check_template(creation.settings.template)
    made: list[str] = []  # a file that gets no name in the end is nobody's
    try:
        adapters = list(creation.adapters)
        async with aclosing(_converted_adapters(store, creation, base, adapters, made)) as converting:
            async for step in converting:
                yield step
        if adapters:
            yield PullStatus("checking adapters")
            base, remarks = await in_store(store.with_adapters, base, adapters)
            for remark in remarks:
                yield PullStatus(remark)
            await check_adapters(base)
        if creation.draft is not None:
            yield PullStatus("checking draft model")
            base = await in_store(store.with_draft, base, creation.draft)
            await check_draft(base.file, creation.draft)
        async with aclosing(_written_anew(store, in_store, base, target, converted)) as writing:
            async for event in writing:
                if isinstance(event, CreateProgress):
                    yield event
                else:
                    made.append(str(event.path))
                    base = await in_store(store.with_file, base, event.path)
        yield PullStatus("writing manifest")
        await in_store(store.create, base, creation.settings)
    finally:
        if made:
            await in_store(store.drop_blobs, made)
    yield SUCCESS


async def _written_anew(
    store: CreatingStore, in_store: InStore, base: Manifest, target: str | None, converted: BlobWriter | None
) -> AsyncGenerator[CreateProgress | QuantizedFile, None]:
    """The weights of `base` in the type `target`, or else as they were converted; nothing for those that stay."""
    if target is not None:
        source = Source(Path(base.file), base.facts, await in_store(store.tensors, base))
        async with aclosing(quantize(source, target, store.blobs_dir)) as events:
            async for event in events:
                yield event
    elif converted is not None:
        yield QuantizedFile(await asyncio.to_thread(_kept, converted))


async def _converted_adapters(
    store: CreatingStore, creation: Creation, base: Manifest, adapters: list[str], made: list[str]
) -> AsyncGenerator[CreateEvent, None]:
    """Put the blob in place of each of `adapters` that is a folder, and among what is `made`."""
    for place, adapter in enumerate(adapters):
        async with aclosing(_converted_adapter(store, creation, base, Path(adapter))) as converting:
            async for step in converting:
                if isinstance(step, Path):
                    adapters[place] = str(step)
                    made.append(str(step))
                else:
                    yield step


async def _converted_adapter(
    store: CreatingStore, creation: Creation, base: Manifest, adapter: Path
) -> AsyncGenerator[CreateEvent | Path, None]:
    """The blob that the adapter in a folder is converted to; nothing for one that is a file."""
    if creation.converter is None or not await asyncio.to_thread(adapter.is_dir):
        return
    folders = (creation.folder, adapter, base.parent)
    model = await asyncio.to_thread(_first_with_config, [Path(folder) for folder in folders if folder])
    with await asyncio.to_thread(BlobWriter, store.blobs_dir) as writer:
        async with aclosing(convert_adapter(adapter, model, creation.converter, writer.path)) as events:
            async for event in events:
                yield event
        yield await asyncio.to_thread(_kept, writer)


def _first_with_config(folders: Sequence[Path]) -> Path | None:
    """The folder that says what a model is; a name of a model is no folder, and a relative path not ours to follow."""
    return next((folder for folder in folders if folder.is_absolute() and (folder / "config.json").is_file()), None)


def _kept(converted: BlobWriter) -> Path:
    converted.hash_file()
    return converted.keep()


async def _base(store: CreatingStore, in_store: InStore, creation: Creation, converted: BlobWriter | None) -> Manifest:
    try:
        return await in_store(store.base, creation)
    except ModelFileError as error:
        if converted is not None:  # its file has no name that would tell anybody anything
            said = error.message.replace(str(converted.path), "the new file")
            error.message = f"the model was converted, but what was made of it cannot be run: {said}"
        raise


async def check_template(template: str, seconds: float = CHECK_SECONDS) -> None:
    """Try a chat template in a process of its own. Raises TemplateError when it cannot be used."""
    try:
        async with asyncio.timeout(seconds), aclosing(lines_from(_CHECK, CheckRequest(template))) as lines:
            answer = _checked.decode(await anext(lines))
    except TimeoutError:
        raise TemplateError(
            f"template error: it is not done with one question after {seconds:g} s",
            hint="look for a loop that never ends",
        ) from None
    if isinstance(answer, Failed):
        raise TemplateError(f"template error: {answer.message}", hint=answer.hint)


async def check_adapters(base: Manifest, seconds: float = LLAMA_SECONDS) -> None:
    """Ask llama.cpp, in a process of its own, whether it applies the adapters of `base`, whole.

    Raises ModelFileError when it does not, and when it dies of them.
    """
    request = AdapterCheck(base.file, tuple(adapter.file for adapter in base.adapters))
    named = ", ".join(Path(file).name for file in request.adapters)
    answer = await _llama_cpp_says(_ADAPTER_CHECK, request, named, seconds, _OTHER_ADAPTER)
    if isinstance(answer, Failed):
        raise ModelFileError(f"llama.cpp does not apply {named}: {answer.message}", hint=_OTHER_ADAPTER)


async def check_draft(model: str, draft: str, seconds: float = LLAMA_SECONDS) -> None:
    """Ask llama.cpp, in a process of its own, whether one model can guess for another.

    Raises ModelFileError when it cannot, and when llama.cpp dies of them.
    """
    named = Path(draft).name
    answer = await _llama_cpp_says(_DRAFT_CHECK, DraftCheck(model, draft), named, seconds, _OTHER_DRAFT)
    if isinstance(answer, Failed):
        raise ModelFileError(f"{named} cannot guess for this model: {answer.message}", hint=_OTHER_DRAFT)


async def _llama_cpp_says(
    module: str, request: AdapterCheck | DraftCheck, named: str, seconds: float, hint: str
) -> CheckEvent:
    try:
        async with asyncio.timeout(seconds), aclosing(lines_from(module, request)) as lines:
            return _checked.decode(await anext(lines))
    except TimeoutError:
        raise ModelFileError(f"llama.cpp is not done with {named} after {seconds:g} s", hint=hint) from None
    except ProcessEndedError as error:
        raise ModelFileError(f"llama.cpp dies of {named} ({error.exit_code})", hint=hint) from error


def refuse_unsupported(settings: Modelfile) -> None:
    """Raises UnsupportedError for what would make another model than the one that is asked for."""
    if len(settings.bases) > 1:
        raise UnsupportedError(
            f"{settings.place('from', 1)}a second FROM ({settings.bases[1]}) is not supported yet",
            hint="leave one FROM: the model itself",
        )
