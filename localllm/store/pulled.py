"""What is downloaded for a name, and what the download tells a manifest. Pure."""

from __future__ import annotations

import msgspec

from localllm.errors import InvalidFieldError, ModelNotFoundError
from localllm.modelfile import Modelfile
from localllm.pulling import Pulled, PulledSettings, PullRequest, RegistryPlace
from localllm.store.catalogue import Entry
from localllm.store.layers import with_settings
from localllm.store.manifest import Manifest, Part
from localllm.store.names import DEFAULT_TAG, HUB_HOST, REGISTRY_HOST, Name

_LIBRARY = "library"
DEFAULT_REGISTRY = "https://registry.ollama.ai"


def request_for(name: Name, entry: Entry | None, quant: str, place: RegistryPlace) -> PullRequest | None:
    """What to download for `name`, whose entry in the catalogue is `entry`; None when it stands for nothing elsewhere.

    `quant` goes before the catalogue's choice, and may be AUTO_QUANT. Raises InvalidFieldError for a quant that a name
    cannot be given.
    """
    source = entry.source if entry else name
    repository = f"{source.namespace}/{source.model}"
    if source.is_hub:
        chosen = "" if source.tag.lower() == DEFAULT_TAG else source.tag
        if quant and name.is_hub and chosen and chosen.lower() != quant.lower():
            raise _refused(f"'{name}' says which quant already", "leave out the name's part after ':', or the quant")
        return PullRequest(repository, quant or chosen)
    if source.is_registry:
        if quant:
            hint = "its page at ollama.com lists the tags, such as :8b-instruct-q8_0"
            raise _refused(f"the quant of '{name}' is part of its tag", hint)
        return PullRequest(repository, source.tag, registry=place)
    return None


def _refused(message: str, hint: str) -> InvalidFieldError:
    return InvalidFieldError(message, field="quant", hint=hint)


def refuse_unpullable(name: str, parsed: Name, quant: str, others: str, *, is_here: bool) -> None:
    """Raises ModelNotFoundError for a name that stands for nothing, InvalidFieldError for a quant of what is here.

    `others` are the names there are of the same model with other tags, "" when there are none.
    """
    if not is_here:
        error = ModelNotFoundError(name)
        error.hint = (f"there is {others}; " if others else "") + _where_from(name, parsed)
        raise error
    if quant:
        raise _refused(f"'{name}' is here, in one quant, and comes from nowhere", "leave out the quant")


def _where_from(name: str, parsed: Name) -> str:
    if parsed.is_local:
        return (
            f"`localllm search` lists the short names; `localllm pull {REGISTRY_HOST}/{_LIBRARY}/{name}` asks Ollama's "
            f"registry, and any repository of Hugging Face is {HUB_HOST}/OWNER/REPO"
        )
    if not parsed.host:
        return f"say where it is: {HUB_HOST}/{name} or {REGISTRY_HOST}/{name}"
    return f"models come from {HUB_HOST}/OWNER/REPO and {REGISTRY_HOST}/USER/NAME, and from no other host"


def spelled(name: Name, repository: str) -> Name:
    """A name of the hub as the hub spells it; others, and those of a repository that was renamed, as they are."""
    owner, _, repo = repository.partition("/")
    as_there = Name(repo, name.tag, owner, name.host)
    return as_there if name.is_hub and as_there.folded == name.folded else name


def described(manifest: Manifest, name: Name, pulled: Pulled, projector: Part | None) -> Manifest:
    """`manifest` with what the download of `name` says of its files."""
    host = f"{REGISTRY_HOST}/" if name.is_registry else ""
    files = (*pulled.files, *((pulled.projector,) if pulled.projector else ()), *pulled.adapters)
    made = msgspec.structs.replace(
        manifest,
        source=f"{host}{pulled.repository}@{pulled.commit}",
        digests=tuple(file.digest for file in files),
        projector=projector,
    )
    return with_settings(made, _as_modelfile(manifest.file, pulled.settings)) if pulled.settings else made


def _as_modelfile(file: str, settings: PulledSettings) -> Modelfile:
    return Modelfile(
        bases=(file,),
        options=settings.options,
        template=settings.template or None,
        system=settings.system or None,
        licenses=(settings.license,) if settings.license else (),
        messages=settings.messages,
    )
