"""The process that looks at a model before it is downloaded: its headers by ranges of bytes, and what they come to.

    python -m localllm.store.peek        one PullRequest in on stdin, one line of JSON out: peeked.Peeked or Failed

A process of its own for the reasons of store/pull: huggingface_hub need not stay in the daemon's memory, nor may its
network hold up the daemon's event loop. A header is some megabytes at the beginning of a file; of a model in parts the
headers of all are read.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec

from localllm.errors import HubError, LocalllmError
from localllm.failures import failed_from
from localllm.generation import Failed
from localllm.gguf import Header
from localllm.placement.estimate import estimate
from localllm.pulling import PullRequest
from localllm.store.hub import Hub
from localllm.store.hub_folder import hub_cache
from localllm.store.image import settings_of
from localllm.store.peeked import Peeked, Size
from localllm.store.registry import Registry
from localllm.store.remote_header import remote_header
from localllm.store.repository import HubFile, Repository, Variant, choose, variants_in
from localllm.store.source import Source, patiently

MOST_VARIANTS = 40


def peek(hub: Hub, request: PullRequest) -> Peeked:
    """Look at the variant of a repository that a pull would choose. Raises LocalllmErrors."""
    repository = patiently(lambda: hub.look_up(request.repository), time.sleep)
    choice = choose(repository, request.choice)
    variant = _known(hub, repository, choice.variant)
    others = (other for other in variants_in(repository) if _is_other_quant(other, choice.variant))
    header = _headers(hub, repository, variant.files)
    return Peeked(
        repository.id,
        variant.label,
        str(variant),
        variant.size_bytes,
        estimate(header),
        header.is_embedding_model,
        tuple(_sizes(hub, repository, islice(others, MOST_VARIANTS))),
        choice.remarks,
    )


def _is_other_quant(other: Variant, variant: Variant) -> bool:
    """Whether it is the same model: a repository may hold several, and helpers that models guess with."""
    return other.is_whole and other != variant and other.family == variant.family


def _known(hub: Hub, repository: Repository, variant: Variant) -> Variant:
    return dataclasses.replace(variant, files=hub.known(repository, variant.files))


def _sizes(hub: Hub, repository: Repository, variants: Iterable[Variant]) -> Iterator[Size]:
    """The sizes of those that could be had: not of one that could not be verified."""
    for variant in variants:
        with suppress(HubError):
            yield Size(variant.label, _known(hub, repository, variant).size_bytes)


def peek_image(registry: Registry, request: PullRequest) -> Peeked:
    """Look at a model of Ollama's registry. Raises LocalllmErrors."""
    image = patiently(lambda: registry.look_up(request.repository, request.choice), time.sleep)
    settings, remarks = settings_of([(text.kind, registry.read(image, text)) for text in image.texts])
    header = _headers(registry, image.repository, (*image.files, *image.adapters))
    return Peeked(
        image.repository.id,
        request.choice,
        request.choice,
        sum(file.size_bytes for file in (*image.files, *image.adapters)),
        estimate(header),
        header.is_embedding_model,
        (),
        (*image.remarks, *remarks),
        settings.options,
    )


def _headers(source: Source, repository: Repository, files: tuple[HubFile, ...]) -> Header:
    """The first file's header with the tensors of all."""
    headers = [patiently(partial(remote_header, source, repository, file), time.sleep) for file in files]
    whole = [header for header in headers if header is not None]
    if len(whole) < len(headers):
        missing = next(file.name for file, header in zip(files, headers, strict=True) if header is None)
        raise HubError(
            f"the header of {missing} cannot be read from {source.title}: it is no GGUF, or its header is very long",
            hint="pull the quant you want: its file is planned with when it is there, or refused with the reason",
        )
    return dataclasses.replace(whole[0], tensors=tuple(tensor for header in whole for tensor in header.tensors))


def _run(request: PullRequest) -> Peeked:
    if request.registry is None:
        return peek(Hub(hub_cache(os.environ, Path.home())), request)
    with Registry(request.registry.url, Path(request.registry.blobs_dir)) as registry:
        return peek_image(registry, request)


def main() -> None:
    """Answer the one request of this process."""
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=PullRequest)
    answer: Peeked | Failed
    try:
        answer = _run(request)
    except LocalllmError as error:
        answer = failed_from(error)
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")


if __name__ == "__main__":
    main()
