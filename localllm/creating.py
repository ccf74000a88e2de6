"""A create: what is asked, and the events that tell how it goes.

    cli/create or /api/create ── Creation ──▶ store.create ── CreateEvent… ──▶ whoever asked
                                                 ├─ of safetensors: the converter is fetched once, and run, in
                                                 │  processes of their own
                                                 ├─ with a template: a process of its own tries it
                                                 ├─ with adapters, or a draft model: a process of its own asks
                                                 │  llama.cpp about them
                                                 └─ with a quantization: a process of its own makes a new file

The last event is SUCCESS; what goes wrong is raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from localllm.generation import Failed
from localllm.modelfile import Modelfile
from localllm.pulling import PullProgress, PullStatus

SUCCESS = PullStatus("success")


class ConverterRelease(msgspec.Struct, frozen=True):
    """A source archive that holds a converter, and what of it is kept: files whose names match `wanted`, under `root`.

    `project` and `archive` are its names on a package index, `sha256` and `size_bytes` the archive's. `script` is what
    is run for a model, `adapter_script` for an adapter. `libraries` must be there, and are made safe before one is;
    `packages` brings them, as pip is told.
    """

    project: str
    archive: str
    size_bytes: int
    sha256: str
    root: str
    wanted: str
    script: str
    adapter_script: str
    libraries: tuple[str, ...]
    packages: tuple[str, ...]


class ConverterPlace(msgspec.Struct, frozen=True):
    """Which converter, the folder that localllm keeps it in, and the index it comes from; "" is pip's, or PyPI."""

    release: ConverterRelease
    cache_dir: str
    index: str = ""


@dataclass(frozen=True, slots=True)
class Creation:
    """Make `name` stand for the model `base`, or for `files`, with what `settings` says laid over it.

    Exactly one of `base` (a name), `files` (absolute paths, the parts of a model in order) and `folder` (of a model in
    safetensors) is given. With `quantization` (a file type such as "Q4_K_M") the weights are written anew in that type.
    `adapters` are the absolute paths of those that `settings` names: files, or folders with one in safetensors. What
    is in `converter` converts folders. `draft` is the absolute path of the draft model that `settings` names.
    """

    name: str
    settings: Modelfile
    base: str | None = None
    files: tuple[str, ...] = ()
    folder: str | None = None
    converter: ConverterPlace | None = None
    quantization: str | None = None
    adapters: tuple[str, ...] = ()
    draft: str | None = None


class CreateProgress(msgspec.Struct, frozen=True, tag="progress"):
    """How much is written or fetched, of what `text` says."""

    text: str
    total_bytes: int
    completed_bytes: int


CreateEvent = PullStatus | CreateProgress


class QuantizeRequest(msgspec.Struct, frozen=True):
    """Write the weights of the GGUF `source` to `target` in the type with that number (llama_ftype of llama.h)."""

    source: str
    target: str
    file_type: int


class TensorStarted(msgspec.Struct, frozen=True, tag="tensor"):
    """The tensor of that name is being written."""

    name: str


class Quantized(msgspec.Struct, frozen=True, tag="quantized"):
    """The target is whole."""


QuantizeEvent = TensorStarted | Quantized | Failed


class ConverterFetched(msgspec.Struct, frozen=True, tag="fetched"):
    """The converter is there, whole, in that folder."""

    folder: str


FetchEvent = PullStatus | PullProgress | ConverterFetched | Failed


class ConvertRequest(msgspec.Struct, frozen=True):
    """Let a script of the converter in the folder `converter` write the GGUF `target`, told `arguments` besides.

    `folders` are what it reads, of which no code may run. `libraries` are made safe before. Paths are absolute.
    """

    converter: str
    script: str
    libraries: tuple[str, ...]
    folders: tuple[str, ...]
    target: str
    arguments: tuple[str, ...]


class BytesWritten(msgspec.Struct, frozen=True, tag="written"):
    """How long the target is by now."""

    size_bytes: int


class ConverterSaid(msgspec.Struct, frozen=True, tag="said"):
    """A warning of the converter's."""

    text: str


class Converted(msgspec.Struct, frozen=True, tag="converted"):
    """The target is whole."""


ConvertEvent = BytesWritten | ConverterSaid | Converted | Failed


class DraftCheck(msgspec.Struct, frozen=True):
    """Ask llama.cpp whether two models have one vocabulary. Paths are absolute."""

    model: str
    draft: str


class AdapterCheck(msgspec.Struct, frozen=True):
    """Ask llama.cpp whether it applies these adapters to the model, whole. Paths are absolute."""

    model: str
    adapters: tuple[str, ...]


class CheckRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Read this chat template and render a short conversation with it; a `thorough` check tries all it should do."""

    template: str
    thorough: bool = False


class Finding(msgspec.Struct, frozen=True):
    """What one trial of a template showed: "ok", a "note", or a "problem"; of what, and in words."""

    level: Literal["ok", "note", "problem"]
    subject: str
    text: str


class Checked(msgspec.Struct, frozen=True, tag="checked", omit_defaults=True):
    """The template can be used; a thorough check says what it found, which may be problems."""

    findings: tuple[Finding, ...] = ()


CheckEvent = Checked | Failed
