"""Model names: what may be one, how two compare, and where a name's manifest lies.

    [host/][namespace/]model[:tag]          tag "latest" when unsaid; "library/" before a local model is dropped
    hf.co/OWNER/REPO[:QUANT|:FILE]          of Hugging Face's hub; huggingface.co and a URL's "https://" mean the same
    ollama.com/[USER/]MODEL[:TAG]           of Ollama's registry, "library" when no user is said; registry.ollama.ai too

A part starts with a letter, digit or underscore and goes on with these, "." and "-" (namespace: no "."; host: also
":"), so that no part can be "..", hidden, or hold a separator. Names are kept as written and compared without case.
Other hosts and namespaces are understood, but nothing is ever fetched from an address that a name gives.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from localllm.errors import InvalidNameError
from localllm.store.quants import asked_by

DEFAULT_TAG = "latest"
MAX_PART_LENGTH = 80
MAX_NAMESPACE_LENGTH = 80
MAX_HOST_LENGTH = 350
MAX_HUB_PART_LENGTH = 160  # a tag may be a whole file name
HUB_HOST = "hf.co"
REGISTRY_HOST = "ollama.com"
_HUB_HOSTS = (HUB_HOST, "huggingface.co")
_REGISTRY_HOSTS = (REGISTRY_HOST, "registry.ollama.ai")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")
_DEFAULT_NAMESPACE = "library"
_NOT_IN_A_NAME = re.compile(r"[^a-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Name:
    """A model's name, each part as it was written. `host` and `namespace` are "" for a model of this machine."""

    model: str
    tag: str = DEFAULT_TAG
    namespace: str = ""
    host: str = ""

    @property
    def is_local(self) -> bool:
        """A plain NAME[:TAG]."""
        return not self.namespace and not self.host

    @property
    def is_hub(self) -> bool:
        """A repository of Hugging Face's hub."""
        return self.host == HUB_HOST

    @property
    def is_registry(self) -> bool:
        """A model of Ollama's registry."""
        return self.host == REGISTRY_HOST

    @property
    def local(self) -> Name:
        """The local name that Ollama's clients mean by one of the registry's library, if they write it in full."""
        is_library = self.is_registry and self.namespace.lower() == _DEFAULT_NAMESPACE
        return Name(self.model, self.tag) if is_library else self

    @property
    def is_known(self) -> bool:
        """Of a place that models can come from: this machine, the hub, the registry."""
        return self.is_local or self.is_hub or self.is_registry

    def __str__(self) -> str:
        """The name in full, always with its tag."""
        front = "".join(f"{part}/" for part in (self.host, self.namespace) if part)
        return f"{front}{self.model}:{self.tag}"

    @property
    def folded(self) -> str:
        """What two spellings of one name have in common."""
        return str(self).lower()


def parse_name(text: str) -> Name:
    """Read a model's name. Raises InvalidNameError that says which part is wrong."""
    front, _, last = text.removeprefix("https://").rpartition("/")
    model, has_tag, tag = last.partition(":")
    host, _, namespace = front.rpartition("/")
    if "/" in host:
        raise _invalid(text, "it has more than three parts")
    if host and not namespace:
        raise _invalid(text, "it has an empty namespace")
    if text.startswith("/"):
        raise _invalid(text, "it starts with a slash")
    host, namespace = _known_host(host, namespace)
    limit = MAX_HUB_PART_LENGTH if host == HUB_HOST else MAX_PART_LENGTH
    _check(text, "model", model, _PART, limit)
    if has_tag:
        _check(text, "tag", tag, _PART, limit)
    if namespace:
        _check(text, "namespace", namespace, _NAMESPACE, MAX_NAMESPACE_LENGTH)
    if host:
        _check(text, "host", host, _HOST, MAX_HOST_LENGTH)
    if namespace.lower() == _DEFAULT_NAMESPACE and not host:
        namespace = ""
    return Name(model, tag or DEFAULT_TAG, namespace, host)


def _known_host(host: str, namespace: str) -> tuple[str, str]:
    """The one spelling of a host that models come from; "ollama.com/MODEL" is of its library."""
    if namespace.lower() in _REGISTRY_HOSTS and not host:
        return REGISTRY_HOST, _DEFAULT_NAMESPACE
    if host.lower() in _HUB_HOSTS:
        return HUB_HOST, namespace
    return (REGISTRY_HOST if host.lower() in _REGISTRY_HOSTS else host), namespace


def same_name(one: str, other: str) -> bool:
    """Whether two texts are spellings of one model's name; a path is nobody's name."""
    try:
        return parse_name(one).folded == parse_name(other).folded
    except InvalidNameError:
        return False


def parse_local_name(text: str) -> Name:
    """Read the name of a model that is made here. Raises InvalidNameError, also for one with a host or namespace."""
    name = parse_name(text)
    if not name.is_local:
        raise InvalidNameError(
            f"invalid model name '{text}': a model made here has no host or namespace",
            hint=f"call it {name.model}:{name.tag}",
        )
    return name


def _check(text: str, what: str, part: str, grammar: re.Pattern[str], limit: int) -> None:
    if not part:
        raise _invalid(text, f"the {what} is empty")
    if len(part) > limit:
        raise _invalid(text, f"the {what} has {len(part)} characters, and {limit} is the limit")
    if grammar.fullmatch(part) is None:
        raise _invalid(text, f"the {what} {part!r} has a character that may not be there")
    if part.endswith("."):  # Windows drops it, and two names would share a folder
        raise _invalid(text, f"the {what} ends with a dot")


def _invalid(text: str, why: str) -> InvalidNameError:
    shown = text if len(text) <= 100 else text[:97] + "..."
    if (text.partition("://")[2] or text).partition("/")[0].lower() in _HUB_HOSTS:
        hint = _hub_hint(text)
    elif text.endswith(".gguf") or text.startswith((".", "/", "~")):
        hint = f"to use a file: localllm create NAME --from {shown}"
    else:
        hint = (
            "a name is letters, digits, '_', '-' and '.', where '-' and '.' do not come first; then perhaps ':' and a"
            " tag, as in llama3.2:3b"
        )
    return InvalidNameError(f"invalid model name {shown!r}: {why}", hint=hint)


def _hub_hint(text: str) -> str:
    """What to write instead of `text`, which people may have copied from a page of the hub's."""
    place = unquote((text.partition("://")[2] or text).partition("?")[0])
    owner, repository, *path = [*[part for part in place.split("/") if part][1:], "", ""]
    repository, colon, tag = repository.partition(":")
    # Of a page the last part is the file; behind a colon folders count, since they may tell files apart.
    file = "/".join(filter(None, (tag, *path))) if colon else next((part for part in reversed(path) if part), "")
    asked = f":{asked_by(file)}" if file and (colon or file.lower().endswith(".gguf")) else ""
    meant = f"{HUB_HOST}/{owner}/{repository}{asked}"
    if meant != text:  # it would not be better the second time
        with contextlib.suppress(InvalidNameError):
            parse_name(meant)
            return f"the name of that is {meant}"
    return "models of Hugging Face are called hf.co/OWNER/REPO, then perhaps ':' and a quant"


def manifest_path(folder: Path, name: Name) -> Path:
    """Where the manifest of `name`, which is a known one, lies; the same for every spelling of the name.

    `folder` is that of local names; those of the hub and of the registry have theirs beside it.
    """
    assert name.is_known
    if name.is_local:
        return folder / name.model.lower() / f"{name.tag.lower()}.json"
    beside = hub_manifests(folder) if name.is_hub else registry_manifests(folder)
    return beside / name.namespace.lower() / name.model.lower() / f"{name.tag.lower()}.json"


def hub_manifests(folder: Path) -> Path:
    """The folder with the manifests of the hub's names, beside that of local names."""
    return folder.with_name("hub")


def registry_manifests(folder: Path) -> Path:
    """The same of the registry's names."""
    return folder.with_name("registry")


def name_from_file(path: Path) -> str:
    """A valid lower-case model name for a GGUF file: "My Model.Q4_K_M.gguf" → "my-model.q4_k_m"."""
    stem = path.name.lower().removesuffix(".gguf")
    name = _NOT_IN_A_NAME.sub("-", stem).lstrip(".-")[:MAX_PART_LENGTH].rstrip(".-")
    return name or "model"
