"""What a repository on the hub holds, and which of its files make the model that was asked for. Pure.

Without a quant asked for, the first of QUANTS that is there. A model split into NAME-00001-of-0000N.gguf is one choice,
all its parts together. Projectors, importance matrices, adapters and vocabularies are no models; a projector, which
reads images for its model, comes along with it. A file in pieces that somebody has to join is refused by name.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from localllm.errors import NotOnHubError
from localllm.sizes import size_text
from localllm.store.quants import QUANTS, as_quant, asked_by, piece_of, quant_in, read_path

_NO_MODEL = re.compile(r"mmproj|ggml-vocab|(?:^|[-_.])(?:lora|adapter)(?:[-_.]|$)", re.IGNORECASE)
# What another model guesses with: a model, too, but hardly the one that was meant.
_HELPER = re.compile(r"(?:^|[-_./])(?:draft|mtp|assistant)(?:[-_./]|$)", re.IGNORECASE)
# Of a projector's precisions the usual one first; F32 is twice as large and computes the same.
_PROJECTOR_QUANTS = ("F16", "BF16", "F32")
_SHOWN = 12
_ONLINE = "unset HF_HUB_OFFLINE and start the daemon again to look for more on the hub"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository. `oid` is the hex sha256 of a large file, the git hash (40 digits) of a small one.

    Of a file whose size or hash is not told both are nothing: 0 and "".
    """

    path: str
    size_bytes: int
    oid: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit. `id` is OWNER/REPO as the hub spells it.

    `is_offline` when `files` are only what lies of it on this machine, and the hub may not be asked for the others.
    """

    id: str
    commit: str
    files: tuple[HubFile, ...]
    license: str | None = None
    is_gated: bool = False
    is_offline: bool = False

    @property
    def lacks(self) -> str:
        """The beginning of a sentence about what is not among its files."""
        return f"of {self.id} the cache has no" if self.is_offline else f"{self.id} has no"


@dataclass(frozen=True, slots=True)
class Variant:
    """One model that a repository holds: its file, or its parts in order. `quant` is "" when the name tells none.

    `model` is what its name says besides the quant, `family` the same with its folder; `label` what it can be asked by:
    the quant, or the file's name where that is what tells it from others.
    """

    quant: str
    files: tuple[HubFile, ...]
    parts: int
    model: str
    family: str
    label: str

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def is_whole(self) -> bool:
        return len(self.files) == self.parts

    def __str__(self) -> str:
        is_told = all(file.size_bytes or file.oid for file in self.files)
        size = size_text(self.size_bytes) if is_told else "size unknown"
        parts = f"{self.parts} parts" if self.is_whole else f"{len(self.files)} of {self.parts} parts"
        return f"{self.label} ({size}{f', {parts}' if self.parts > 1 else ''})"


@dataclass(frozen=True, slots=True)
class Choice:
    """What to download. `remarks` are for the person: what was chosen instead of what, what has no effect."""

    variant: Variant
    remarks: tuple[str, ...]
    projector: HubFile | None = None

    @property
    def files(self) -> tuple[HubFile, ...]:
        """The model's files, and its projector's last."""
        return (*self.variant.files, *((self.projector,) if self.projector else ()))


def choose(repository: Repository, wanted: str) -> Choice:
    """The variant that `wanted` (a quant, a file's name, or "") asks for. Raises NotOnHubError with what there is."""
    variants = variants_in(repository)
    found = _matching(variants, wanted) if wanted else variants
    if not found:
        raise _no_such(repository, wanted, variants)
    variant = found[0]
    if not variant.is_whole:
        raise NotOnHubError(
            f"{repository.id} has {len(variant.files)} of the {variant.parts} parts of {variant.label}",
            hint=_ONLINE if repository.is_offline else f"ask its owner, or choose another: {_whole(variants)}",
        )
    return choice_of(repository, variant, tuple(_remarks(repository, variant, found, wanted)))


def choice_of(repository: Repository, variant: Variant, why: tuple[str, ...]) -> Choice:
    """The choice of `variant`, chosen for the reasons in `why`, with its projector and the licence."""
    projector = _projector(repository, variant)
    remarks = list(why)
    if projector:
        size = size_text(projector.size_bytes)
        remarks.append(f"with its projector {projector.name} ({size}), which is kept: this version reads no images yet")
    if repository.license:
        remarks.append(f"license: {repository.license}")
    return Choice(variant, tuple(remarks), projector)


def variants_in(repository: Repository) -> tuple[Variant, ...]:
    """Its models, at least one, the one to take without a wish first. Raises NotOnHubError."""
    if variants := variants_of(repository.files):
        return variants
    if whole := next((whole for whole, _ in _in_pieces(repository)), ""):
        message = f"{repository.id} has its models in pieces that have to be joined, such as those of {whole}"
        raise NotOnHubError(message, hint="join them with `cat`, then `localllm create NAME --from FILE`")
    hint = _ONLINE if repository.is_offline else "look for a repository of the same model whose name ends in GGUF"
    raise NotOnHubError(f"{repository.lacks} GGUF model", hint=hint)


def variants_of(files: Iterable[HubFile]) -> tuple[Variant, ...]:
    """The models among `files`, the one to take without a wish first."""
    groups: dict[tuple[str, int], list[HubFile]] = {}
    for file in sorted(files, key=lambda file: file.path):
        if _is_gguf(file.path) and not _NO_MODEL.search(file.name) and not _is_matrix(file.name):
            name = read_path(file.path)
            groups.setdefault((name.stem, name.parts), []).append(file)
    variants = [_variant(group) for group in groups.values()]
    return tuple(sorted(_told_apart(variants), key=_rank))


def _is_gguf(path: str) -> bool:
    return path[-5:].lower() == ".gguf"


def _is_matrix(name: str) -> bool:
    """Whether a file is an importance matrix; a model that was quantized with one may say so beside its quant."""
    return "imatrix" in name.lower() and not quant_in(name[:-5])


def _variant(files: list[HubFile]) -> Variant:
    name = read_path(files[0].path)
    return Variant(name.quant, tuple(files), name.parts, name.model, name.family, name.quant)


def _told_apart(variants: list[Variant]) -> Iterator[Variant]:
    """The same with labels: the shortest that no other has."""
    quants = Counter(variant.quant for variant in variants)
    names = Counter(asked_by(_file_name(variant)).lower() for variant in variants)
    for variant in variants:
        name = asked_by(_file_name(variant))
        whole = name if names[name.lower()] == 1 else asked_by(_path(variant))
        is_told = variant.quant and quants[variant.quant] == 1
        yield dataclasses.replace(variant, label=variant.quant if is_told else whole)


def _path(variant: Variant) -> str:
    """The path of its file; of its parts what it would be were they one."""
    return f"{read_path(variant.files[0].path).stem}.gguf"


def _file_name(variant: Variant) -> str:
    return _path(variant).rpartition("/")[2]


def _rank(variant: Variant) -> tuple[object, ...]:
    """Whole before incomplete, models before their helpers, the order of QUANTS, files outside folders, short names:
    those say no special thing."""
    # A dynamic quant without a place of its own (UD-Q4_K_M, UD-IQ2_XXS) is as near as the plain one of its size.
    quant = variant.quant if variant.quant in QUANTS else variant.quant.removeprefix("UD-")
    rank = QUANTS.index(quant) if quant in QUANTS else len(QUANTS)
    path = variant.files[0].path
    return not variant.is_whole, bool(_HELPER.search(path)), rank, path.count("/"), len(path), path


def _whole(variants: Iterable[Variant]) -> str:
    return listed(one for one in variants if one.is_whole) or "there is none in this repository"


def _matching(variants: tuple[Variant, ...], wanted: str) -> tuple[Variant, ...]:
    """Those that `wanted` may mean, the best first, by the first of these ways that finds any."""
    text, quant = asked_by(wanted).lower(), as_quant(wanted)
    if _is_gguf(text):
        return tuple(one for one in variants if text in _names(one))
    ways: tuple[Callable[[Variant], bool], ...] = (
        lambda one: bool(quant) and one.quant == quant,
        lambda one: bool(quant) and one.quant == f"UD-{quant}",
        lambda one: any(_has_words(name[:-5], text, "$") for name in _names(one)),
        lambda one: bool(quant) and one.quant.removeprefix("UD-").startswith(f"{quant}_"),
        lambda one: any(_has_words(name[:-5], text) for name in _names(one)),
    )
    found = (tuple(filter(way, variants)) for way in ways)
    # What all of them have in common asks for none of them: the last word of the model's name, say.
    return next((some for some in found if some and (quant or len(some) < len(variants) or len(some) == 1)), ())


def _names(variant: Variant) -> tuple[str, ...]:
    """What the variant can be asked by besides its quant: names and paths of its files, and of them all as one file."""
    paths = (_path(variant), *(file.path for file in variant.files))
    return tuple(asked_by(name).lower() for path in paths for name in (path, path.rpartition("/")[2]))


def _has_words(name: str, text: str, end: str = "") -> bool:
    return re.search(rf"(?<![0-9a-z]){re.escape(text)}(?![0-9a-z]){end}", name) is not None


def _no_such(repository: Repository, wanted: str, variants: Iterable[Variant]) -> NotOnHubError:
    more = f"; {_ONLINE}" if repository.is_offline else ""
    text, quant = asked_by(wanted).lower(), as_quant(wanted)
    for file in repository.files:
        if text in (asked_by(file.name).lower(), asked_by(file.path).lower()):
            what = "a projector: it comes along with its model" if "mmproj" in file.name.lower() else "no model"
            return NotOnHubError(f"{file.path} of {repository.id} is {what}", hint=f"it has {listed(variants)}")
    for whole, pieces in _in_pieces(repository):
        if text == asked_by(whole.rpartition("/")[2]).lower() or (quant and quant == read_path(whole).quant):
            return NotOnHubError(
                f"{wanted} of {repository.id} comes in {len(pieces)} pieces that have to be joined: {pieces[0]} …",
                hint=f"join them with `cat`, then `localllm create NAME --from FILE`; else it has {listed(variants)}",
            )
    return NotOnHubError(f"{repository.lacks} {wanted}", hint=f"it has {listed(variants)}{more}")


def _in_pieces(repository: Repository) -> Iterable[tuple[str, list[str]]]:
    """Every file that lies there in pieces, and their paths."""
    pieces: dict[str, list[str]] = {}
    for path in sorted(file.path for file in repository.files):
        if whole := piece_of(path):
            pieces.setdefault(whole, []).append(path)
    return pieces.items()


def _remarks(repository: Repository, variant: Variant, found: tuple[Variant, ...], wanted: str) -> Iterator[str]:
    """What a person should know of a choice that was not quite what was asked, or that was one of several `found`."""
    quant = QUANTS[0] if not wanted else as_quant(wanted)
    is_it = quant in (variant.quant, variant.quant.removeprefix("UD-"), "")
    others = [one for one in found if one != variant and (not quant or not is_it or one.quant == variant.quant)]
    lacks = "" if is_it else f"{repository.lacks} {wanted or quant}: "
    if others or lacks:
        yield f"{lacks}taking {variant}{f'; there is also {listed(others)}' if others else ''}"
    if lacks and (aside := ", ".join(read_path(whole).quant or whole for whole, _ in _in_pieces(repository))):
        yield f"left aside, since it comes in pieces that have to be joined: {aside}"


def _projector(repository: Repository, variant: Variant) -> HubFile | None:
    """The projector for a model: of its name rather than another's, beside it, and in the usual precision."""
    model = variant.files[0]
    folder, name = model.path.removesuffix(model.name), variant.model.lower()

    def rank(file: HubFile) -> tuple[object, ...]:
        quant = quant_in(file.name[:-5])
        precision = _PROJECTOR_QUANTS.index(quant) if quant in _PROJECTOR_QUANTS else len(_PROJECTOR_QUANTS)
        is_beside = file.path.removesuffix(file.name) == folder
        return name not in file.name.lower(), not is_beside, precision, file.path.count("/"), len(file.path), file.path

    named = (file for file in repository.files if "mmproj" in file.name.lower() and _is_gguf(file.name))
    others = {one.model.lower() for one in variants_of(repository.files) if one.family != variant.family} - {"", name}
    ours = (file for file in named if _is_for(file.name.lower(), name, others))
    return min(ours, key=rank, default=None)


def _is_for(projector: str, name: str, others: Iterable[str]) -> bool:
    """Whether a projector, by its name, may be that of the model `name` and not of one of the `others`."""
    longest = max((other for other in others if other in projector), key=len, default="")
    return not longest or (name in projector and len(name) >= len(longest))


def listed(variants: Iterable[Variant]) -> str:
    """The first of them with their sizes, and how many more there are."""
    shown = [str(variant) for variant in variants]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
