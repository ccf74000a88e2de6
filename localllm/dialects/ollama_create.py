"""The bodies of POST /api/create and /api/copy, in Ollama's words. The answer's lines are ollama_pull's.

`parameters` takes what PARAMETER takes, ours too. What this version cannot do is refused, not ignored; what has no
effect here (renderer, parser) is among the settings' warnings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from localllm.creating import Creation
from localllm.dialects.body import ignored_names, read, read_role
from localllm.errors import InvalidFieldError, InvalidNameError, UnsupportedError
from localllm.generation import Message, Options, parse_options
from localllm.load_options import ALSO_CALLED, DRAFT_NAMES, NOT_YET, LoadOptions, parse_load_option
from localllm.modelfile import IGNORED, PARAMETER_TYPES, VERSION, Modelfile

_NOT_GGUF = (".safetensors", ".bin", ".pth", ".pt", ".json")
_PICKLES = (".bin", ".pth", ".pt", ".ckpt")
# A file of a model in safetensors, which may lie in a folder beside the weights.
_PLAIN_PATH = re.compile(r"(?:\w[\w.+ -]*/){0,2}\w[\w.+ -]*", re.ASCII)
_MOST_FILES = 1000


class _Message(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    images: list[Any] | None = None
    tool_calls: list[Any] | None = None


class _CreateBody(msgspec.Struct):
    model: str | None = None
    name: str | None = None
    base: str | None = msgspec.field(default=None, name="from")
    files: dict[str, str] | None = None
    draft_files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    template: str | None = None
    system: str | None = None
    license: str | list[str] | None = None
    parameters: dict[str, Any] | None = None
    messages: list[_Message] | None = None
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    quantize: str | None = None
    quantization: str | None = None
    draft_quantize: str | None = None
    remote_host: str | None = None
    modelfile: str | None = None
    stream: bool | None = None


class _CopyBody(msgspec.Struct):
    source: str | None = None
    destination: str | None = None


_create_decoder = msgspec.json.Decoder(_CreateBody)
_copy_decoder = msgspec.json.Decoder(_CopyBody)
# What is read where, for the document of the API.
BODIES: dict[str, type[msgspec.Struct]] = {"/api/create": _CreateBody, "/api/copy": _CopyBody}


@dataclass(frozen=True, slots=True)
class DecodedCreate:
    """A body, understood. `digest` is that of the blob the model is made of, None for one that is made of another.

    `folder` are the files of a model in safetensors, their digests by their paths. `adapters` are the digests of its
    adapters, in order, and `adapter_folder` the files of one in safetensors. `draft` is the digest of its draft model.
    `ignored` are fields that say something and change nothing.
    """

    creation: Creation
    digest: str | None
    stream: bool
    adapters: tuple[str, ...] = ()
    folder: tuple[tuple[str, str], ...] = ()
    adapter_folder: tuple[tuple[str, str], ...] = ()
    draft: str | None = None
    ignored: tuple[str, ...] = ()


def decode_create(body: bytes) -> DecodedCreate:
    """The body of POST /api/create. Raises BadRequestError's kinds."""
    fields = read(body, _create_decoder)
    name = fields.model or fields.name or ""
    if not name:
        raise InvalidNameError("invalid model name", hint='say which: {"model": "mine", "from": "llama3.2"}')
    _refuse_unsupported(fields)
    folder = _folder(fields.files or {}, "files")
    adapter_folder = _folder(fields.adapters or {}, "adapters")
    digest = None if folder else _digest(fields.files, "files")
    if not fields.files and not fields.base:
        raise InvalidFieldError(
            "neither 'from' or 'files' was specified",
            field="from",
            hint="from is a model's name; files is {FILE NAME: DIGEST} of what was sent to /api/blobs",
        )
    if fields.files and fields.base:
        raise InvalidFieldError("say either 'from' or 'files', not both", field="files", hint="a model has one origin")
    creation = Creation(
        name,
        _settings(fields),
        base=fields.base or None,
        quantization=fields.quantize or fields.quantization or None,
    )
    adapters = () if adapter_folder else _adapters(fields.adapters)
    draft = _digest(fields.draft_files, "draft_files")
    ignored = (*ignored_names(body, _CreateBody), *(name for name in IGNORED if getattr(fields, name, None)))
    is_stream = fields.stream is not False
    return DecodedCreate(creation, digest, is_stream, adapters, folder, adapter_folder, draft, ignored)


def decode_copy(body: bytes) -> tuple[str, str]:
    """The body of POST /api/copy: source and destination. Raises InvalidFieldError."""
    fields = read(body, _copy_decoder)
    for field in ("source", "destination"):
        if not getattr(fields, field):
            raise InvalidFieldError(f"{field} is required", field=field)
    return fields.source or "", fields.destination or ""


def _settings(fields: _CreateBody) -> Modelfile:
    """What a Modelfile would say."""
    if fields.requires and VERSION.fullmatch(fields.requires) is None:
        raise InvalidFieldError("requires must be a valid semver (e.g. 0.14.0)", field="requires")
    options, load = _parameters(fields.parameters or {})
    return Modelfile(
        bases=(fields.base or next(iter(fields.files or {"": ""})),),
        adapters=tuple(fields.adapters or ()),
        draft=next(iter(fields.draft_files or ()), None),
        options=options,
        load=load,
        template=fields.template or None,
        system=fields.system or None,
        licenses=_licenses(fields.license),
        messages=tuple(_message(item, f"messages[{i}]") for i, item in enumerate(fields.messages or ())),
        renderer=fields.renderer or None,
        parser=fields.parser or None,
        requires=fields.requires or None,
        warnings=tuple(f"{name} has no effect: {IGNORED[name]}" for name in IGNORED if getattr(fields, name, None)),
    )


def _refuse_unsupported(fields: _CreateBody) -> None:
    refused = {
        "draft_quantize": "a draft model is taken as it is: quantize it as a model of its own first",
        "remote_host": "models on other servers are not supported",
        "modelfile": "a Modelfile's text is not read here: send its parts as from, system, parameters, …",
    }
    for field, why in refused.items():
        if getattr(fields, field):
            raise UnsupportedError(f"{field}: {why}")


def _folder(files: dict[str, str], field: str) -> tuple[tuple[str, str], ...]:
    """The files of a model or an adapter in safetensors; none for another."""
    if not any(path.lower().endswith(".safetensors") for path in files):
        return ()
    if len(files) > _MOST_FILES:
        raise InvalidFieldError(f"{field} names {len(files)} files, and {_MOST_FILES} is the most", field=field)
    for path in files:
        _refuse_absolute(path, field)
        if path.lower().endswith(_PICKLES):
            raise UnsupportedError(
                f"{field}: {path} is a pickle, which may run code when it is read", hint="send the safetensors alone"
            )
        if not _PLAIN_PATH.fullmatch(path):
            raise InvalidFieldError(f"{field}: {path!a} is no name that a model's file may have", field=field)
    return tuple(files.items())


def _digest(files: dict[str, str] | None, field: str) -> str | None:
    """The one file's digest."""
    if not files:
        return None
    for path in files:
        _refuse_absolute(path, field)
        if path.lower().endswith(_NOT_GGUF):
            raise UnsupportedError(
                f"{field}: {path} is no GGUF, and there are no safetensors beside it",
                hint="send a GGUF, or all files of a model in safetensors",
            )
    if len(files) > 1:
        raise UnsupportedError(
            f"{field} names {len(files)} files, and a model that is sent must be one",
            hint="join the parts of a model with llama-gguf-split --merge; projectors are not supported yet",
        )
    return next(iter(files.values()))


def _adapters(files: dict[str, str] | None) -> tuple[str, ...]:
    """The digests of adapters."""
    for path in files or ():
        _refuse_absolute(path, "adapters")
        if path.lower().endswith(_NOT_GGUF):
            raise UnsupportedError(
                f"adapters: {path} is no GGUF, and there are no safetensors beside it",
                hint="send a GGUF, or adapter_model.safetensors with its adapter_config.json",
            )
    return tuple((files or {}).values())


def _refuse_absolute(path: str, field: str) -> None:
    if path.startswith(("/", "\\")) or ":" in path or ".." in path.replace("\\", "/").split("/"):
        raise InvalidFieldError("file path must be relative", field=field)


def _parameters(values: dict[str, Any]) -> tuple[Options, LoadOptions]:
    for name in values:
        if name in DRAFT_NAMES:
            raise UnsupportedError(
                f"parameter '{name}': a draft model is sent to /api/blobs",
                hint='name it as draft_files: {"draft.gguf": "sha256:…"}',
            )
        if name in NOT_YET:
            raise UnsupportedError(f"parameter '{name}' ({NOT_YET[name]}) is not supported yet", hint="leave it out")
        if name not in PARAMETER_TYPES and name not in LoadOptions.__struct_fields__ and name not in ALSO_CALLED:
            there = ", ".join((*PARAMETER_TYPES, *LoadOptions.__struct_fields__, *ALSO_CALLED))
            raise InvalidFieldError(f"unknown parameter '{name}'", field="parameters", hint=f"there are {there}")
    names = {name: (name,) for name in LoadOptions.__struct_fields__} | ALSO_CALLED
    load = {one: values[name] for name, ours in names.items() if values.get(name) is not None for one in ours}
    options, _ = parse_options({name: value for name, value in values.items() if name in PARAMETER_TYPES})
    return options, LoadOptions(**{name: parse_load_option(name, value) for name, value in load.items()})


def _licenses(value: str | list[str] | None) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value or []
    return tuple(text for text in texts if text)


def _message(item: _Message, field: str) -> Message:
    if item.images or item.tool_calls:
        raise UnsupportedError(f"{field}: a Modelfile's messages are plain text", hint="leave images and calls out")
    return Message(read_role(item.role, f"{field}.role"), item.content or "")
