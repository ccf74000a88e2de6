"""`create` and `cp`: make a model of a Modelfile, a file, a folder or another model, and give one a second name.

A create works on the store itself, without the daemon: a file is used where it lies, and only this user's own command
may name any path. The daemon is asked when the base has to be pulled first.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

import typer

from localllm.cli.daemonize import connect, is_on_this_machine
from localllm.cli.output import Screen, screen_of
from localllm.cli.pull import pull_model, show_lines
from localllm.client import PullLine
from localllm.config import Settings, load_settings
from localllm.creating import ConverterPlace, CreateEvent, CreateProgress, Creation
from localllm.errors import BadRequestError, LocalllmError, ModelFileError, ModelNotFoundError
from localllm.modelfile import Modelfile, decode, parse
from localllm.sizes import size_text
from localllm.store.adapters import adapter_file
from localllm.store.bundled import bundled_dir
from localllm.store.converter import RELEASE
from localllm.store.create import create as carry_out
from localllm.store.create import refuse_unsupported
from localllm.store.drafts import draft_file
from localllm.store.files import is_path, is_to_be_converted, model_files
from localllm.store.model import Model
from localllm.store.names import same_name
from localllm.store.store import Store

P = ParamSpec("P")
T = TypeVar("T")
_DEFAULT_FILE = "Modelfile"
_STDIN = Path("-")


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name to give")],
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="The Modelfile, - for stdin; without it and --from: ./Modelfile")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--from", metavar="MODEL|PATH", help="A GGUF file, a folder, or a model")
    ] = None,
    quantize: Annotated[
        str | None, typer.Option("--quantize", "-q", metavar="TYPE", help="Write the weights anew, such as q4_K_M")
    ] = None,
) -> None:
    """Make a model of a Modelfile, a GGUF file, a folder of safetensors or another model."""
    screen, settings = screen_of(os.environ), load_settings(os.environ)
    said, folder = _said(file, base)
    for warning in said.warnings:
        screen.warn(warning)
    _refuse_elsewhere(name, said.bases[0], settings)
    refuse_unsupported(said)
    store = Store(settings.models_dir, bundled_dir(), registry_url=settings.registry)
    place = ConverterPlace(RELEASE, str(settings.cache_dir), settings.package_index)
    creation = dataclasses.replace(creation_of(name, said, folder, store, place), quantization=quantize)
    if creation.base is not None:
        _pull_if_missing(store, creation.base, name, settings, screen)
    with closing(_lines(carry_out(store, _directly, creation))) as lines:
        show_lines(lines, screen)
    screen.out(screen.clean(_created(store.find(name), creation.settings.bases[0])))


def copy(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The name there is")],
    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="The name to give as well")],
) -> None:
    """Give a model a second name; its file is not copied."""
    screen = screen_of(os.environ)
    with connect(load_settings(os.environ), screen) as client:
        client.copy(source, destination)
    screen.out(screen.clean(f"copied '{source}' to '{destination}'\n"))


def creation_of(name: str, said: Modelfile, folder: Path, store: Store, place: ConverterPlace) -> Creation:
    """What to make, with the files behind ADAPTER, DRAFT, and FROM when that is a path; a relative one starts from
    `folder`.

    Folders of safetensors are converted with what is in `place`. Raises what store.files.model_files,
    store.adapters.adapter_file and store.drafts.draft_file do.
    """
    base = said.bases[0]
    adapters = tuple(str(_adapter(said, number, folder, store.blobs_dir)) for number in range(len(said.adapters)))
    draft = _draft(said, folder, store)
    if not is_path(base):
        return Creation(name, said, base=base, adapters=adapters, converter=place, draft=draft)
    try:
        path = Path(base).expanduser()
    except RuntimeError as error:  # ~somebody who is not there
        raise ModelFileError(f"{base} cannot be found: {error}") from error
    # Not resolve(), which would follow links to a blob's nameless path.
    path = Path(os.path.abspath(folder / path))  # noqa: PTH100
    if is_to_be_converted(path):
        said = dataclasses.replace(said, bases=(str(path), *said.bases[1:]))
        return Creation(name, said, adapters=adapters, folder=str(path), converter=place, draft=draft)
    files = tuple(map(str, model_files(path)))
    said = dataclasses.replace(said, bases=(files[0], *said.bases[1:]))
    return Creation(name, said, files=files, adapters=adapters, converter=place, draft=draft)


def _draft(said: Modelfile, folder: Path, store: Store) -> str | None:
    if said.draft is None:
        return None
    try:
        return str(draft_file(said.draft, folder, store.blobs_dir, store.find))
    except LocalllmError as error:
        last = len(said.lines.get("draft", ())) - 1
        error.message = f"{said.place('draft', last)}the draft model: {error.message}"
        raise


def _adapter(said: Modelfile, number: int, folder: Path, blobs: Path) -> Path:
    try:
        return adapter_file(said.adapters[number], folder, blobs)
    except LocalllmError as error:
        error.message = f"{said.place('adapter', number)}{error.message}"
        raise


def _said(file: Path | None, base: str | None) -> tuple[Modelfile, Path]:
    """The Modelfile that is meant, and the folder its relative paths start from."""
    if file is None and base is not None:
        return Modelfile((base,)), Path.cwd()
    path = file or Path(_DEFAULT_FILE)
    try:
        said = parse(decode(sys.stdin.buffer.read() if path == _STDIN else path.expanduser().read_bytes()))
    except FileNotFoundError:
        hint = "say which with -f FILE, or make the model of a file or another model with --from"
        raise ModelFileError(f"there is no Modelfile at {path}", hint=hint) from None
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}", hint="-f names a text file") from error
    if base is not None:
        return dataclasses.replace(said, bases=(base,)), Path.cwd()
    return said, path.expanduser().parent


def _refuse_elsewhere(name: str, base: str, settings: Settings) -> None:
    if not is_on_this_machine(settings):
        raise BadRequestError(
            f"'{name}' would be made on this machine, but the daemon is at {settings.address.url}",
            hint="unset LOCALLLM_HOST, or run the same command on that machine",
        )


def _pull_if_missing(store: Store, base: str, name: str, settings: Settings, screen: Screen) -> None:
    try:
        store.find(base)
    except ModelNotFoundError:
        try:
            store.pull_request(base)
        except ModelNotFoundError as error:
            if same_name(base, name):
                return  # the store refuses what is made of itself
            error.hint = f"{error.hint}; a file is named by its path: FROM ./{base}"
            raise error from None
        with connect(settings, screen) as client:
            pull_model(client, base, screen)


def _created(model: Model, base: str) -> str:
    words = " ".join(word for word in (model.family, model.parameter_size, model.quantization_level) if word)
    return f"created '{model.name}' ({words}, {size_text(model.size_bytes)}) from {base}\n"


async def _directly(work: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    return work(*arguments, **keywords)


def _lines(events: AsyncGenerator[CreateEvent, None]) -> Generator[PullLine, None, None]:
    """The progress in events, as the display takes it; closing the iterator ends the create."""

    async def step() -> CreateEvent | None:
        return await anext(events, None)

    with asyncio.Runner() as runner:
        try:
            while (event := runner.run(step())) is not None:
                if isinstance(event, CreateProgress):
                    yield PullLine(event.text, event.text, event.text, event.total_bytes, event.completed_bytes)
                else:
                    yield PullLine(event.text)
        finally:
            runner.run(events.aclose())
