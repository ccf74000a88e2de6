"""What a repository on the hub holds, and which of its files make the model that was asked for. Pure.

Without a quant asked for, the first of QUANTS that is there. A model split into NAME-00001-of-0000N.gguf is one choice,
all its parts together. Projectors, importance matrices, adapters and vocabularies are no models; a projector, which
reads images for its model, comes along with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from localllm.errors import NotOnHubError
from localllm.sizes import size_text

# The usual one, then what is nearest to it: its neighbours with four bits, then more, then three, then huge or tiny.
QUANTS = tuple(
    """
    Q4_K_M UD-Q4_K_XL Q4_K_L Q4_K_S Q4_K IQ4_NL IQ4_XS MXFP4 MXFP4_MOE Q4_1 Q4_0 Q4
    Q5_K_M UD-Q5_K_XL Q5_K_L Q5_K_S Q5_K Q5_1 Q5_0 Q5
    Q6_K UD-Q6_K_XL Q6_K_L Q6 Q8_0 UD-Q8_K_XL Q8
    Q3_K_L UD-Q3_K_XL Q3_K_XL Q3_K_M Q3_K_S Q3_K IQ3_M IQ3_S IQ3_XS IQ3_XXS
    BF16 F16 FP16 F32
    Q2_K_L UD-Q2_K_XL Q2_K IQ2_M IQ2_S IQ2_XS IQ2_XXS TQ2_0 TQ1_0 IQ1_M IQ1_S
    """.split()
)
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})", re.ASCII)
_QUANT = re.compile(
    r"(?:^|[-_.])((?:UD[-_])?(?:I?Q|TQ)\d(?:_[0-9A-Z]+)*|MXFP4(?:_MOE)?|NVFP4|BF16|FP16|F16|F32)(?=$|[-_.])", re.ASCII
)
_NO_MODEL = re.compile(r"mmproj|ggml-vocab|(?:^|[-_.])(?:lora|adapter)(?:[-_.]|$)", re.IGNORECASE)
# What another model guesses with: a model, too, but hardly the one that was meant.
_HELPER = re.compile(r"(?:^|[-_./])(?:draft|mtp|assistant)(?:[-_./]|$)", re.IGNORECASE)
# Of a projector's precisions the usual one first; F32 is twice as large and computes the same.
_PROJECTOR_QUANTS = ("F16", "FP16", "BF16", "F32")
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
    """One model that a repository holds: its file, or its parts in order. `quant` is "" when the name tells none."""

    quant: str
    files: tuple[HubFile, ...]
    parts: int

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def is_whole(self) -> bool:
        return len(self.files) == self.parts

    @property
    def label(self) -> str:
        """The quant, or the file's name where that is what tells it from others."""
        return self.quant or self.files[0].name

    def __str__(self) -> str:
        size = size_text(self.size_bytes) if all(file.size_bytes for file in self.files) else "size unknown"
        parts = f", {self.parts} parts" if self.parts > 1 else ""
        return f"{self.label} ({size}{parts})"


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
    variant = _wanted(variants, wanted) if wanted else variants[0]
    if variant is None:
        more = f"; {_ONLINE}" if repository.is_offline else ""
        raise NotOnHubError(f"{repository.lacks} {wanted}", hint=f"it has {listed(variants)}{more}")
    if not variant.is_whole:
        raise NotOnHubError(
            f"{repository.id} has {len(variant.files)} of the {variant.parts} parts of {variant.label}",
            hint=_ONLINE if repository.is_offline else "choose another file, or ask its owner",
        )
    return choice_of(repository, variant, tuple(_remarks(repository, variant, variants, wanted)))


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
    hint = _ONLINE if repository.is_offline else "look for a repository of the same model whose name ends in GGUF"
    raise NotOnHubError(f"{repository.lacks} GGUF model", hint=hint)


def variants_of(files: Iterable[HubFile]) -> tuple[Variant, ...]:
    """The models among `files`, the one to take without a wish first."""
    groups: dict[str, list[HubFile]] = {}
    for file in sorted(files, key=lambda file: file.path):
        stem, extension = file.path[:-5], file.path[-5:].lower()
        if extension != ".gguf" or _NO_MODEL.search(file.name) or _is_matrix(stem):
            continue
        part = _PART.fullmatch(stem)
        groups.setdefault(f"{part['stem']} {part['count']}" if part else stem, []).append(file)
    variants = [_variant(group) for group in groups.values()]
    return tuple(sorted(variants, key=_rank))


def _is_matrix(stem: str) -> bool:
    """Whether a file is an importance matrix; a model that was quantized with one may say so beside its quant."""
    return "imatrix" in stem.lower() and not _QUANT.search(stem.rpartition("/")[2].upper())


def _variant(files: list[HubFile]) -> Variant:
    part = _PART.fullmatch(files[0].path[:-5])
    stem = part["stem"] if part else files[0].path[:-5]
    folder, _, name = stem.rpartition("/")
    # Some repositories name the quant by the folder alone: Q4_K_M/model-00001-of-00002.gguf.
    found = _QUANT.findall(name.upper()) or _QUANT.findall(folder.rpartition("/")[2].upper())
    return Variant(found[-1].replace("UD_", "UD-") if found else "", tuple(files), int(part["count"]) if part else 1)


def _rank(variant: Variant) -> tuple[object, ...]:
    """Whole before incomplete, models before their helpers, the order of QUANTS, files outside folders, short names:
    those say no special thing."""
    # A dynamic quant without a place of its own (UD-Q4_K_M, UD-IQ2_XXS) is as near as the plain one of its size.
    quant = variant.quant if variant.quant in QUANTS else variant.quant.removeprefix("UD-")
    rank = QUANTS.index(quant) if quant in QUANTS else len(QUANTS)
    path = variant.files[0].path
    return not variant.is_whole, bool(_HELPER.search(path)), rank, path.count("/"), len(path), path


def _wanted(variants: Iterable[Variant], wanted: str) -> Variant | None:
    text = wanted.lower()
    if text.endswith(".gguf"):
        return next(
            (v for v in variants if any(text in (file.name.lower(), file.path.lower()) for file in v.files)), None
        )
    for quant in (text, f"ud-{text}"):
        if found := next((variant for variant in variants if variant.quant.lower() == quant), None):
            return found
    # A model in a repository of several may be told apart by the end of its name: REPO:tiny-q4_k_m.
    return next((v for v in variants if v.files[0].name[:-5].lower().endswith(text)), None)


def _remarks(repository: Repository, variant: Variant, variants: tuple[Variant, ...], wanted: str) -> Iterable[str]:
    if not wanted and variant.quant != QUANTS[0]:
        others = [other for other in variants if other is not variant]
        more = f"; there is also {listed(others)}" if others else ""
        yield f"{repository.lacks} {QUANTS[0]}: taking {variant}{more}"


def _projector(repository: Repository, variant: Variant) -> HubFile | None:
    """The projector for a model: of its name rather than another's, beside it, and in the usual precision."""
    model = variant.files[0]
    folder, stem = model.path.removesuffix(model.name), _stem(model.name)

    def rank(file: HubFile) -> tuple[object, ...]:
        quants = _QUANT.findall(file.name[:-5].upper())
        quant = quants[-1] if quants else ""
        precision = _PROJECTOR_QUANTS.index(quant) if quant in _PROJECTOR_QUANTS else len(_PROJECTOR_QUANTS)
        is_beside = file.path.removesuffix(file.name) == folder
        return stem not in file.name.lower(), not is_beside, precision, file.path.count("/"), len(file.path), file.path

    named = (file for file in repository.files if "mmproj" in file.name.lower())
    return min((file for file in named if file.name.lower().endswith(".gguf")), key=rank, default=None)


def _stem(name: str) -> str:
    """What two quants of one model have in common: "Gemma-3-4b-it-Q4_K_M.gguf" → "gemma-3-4b-it"."""
    part = _PART.fullmatch(name[:-5])
    stem = (part["stem"] if part else name[:-5]).upper()
    found = _QUANT.findall(stem)
    return (stem.rpartition(found[-1])[0].rstrip("-_.") if found else stem).lower()


def listed(variants: Iterable[Variant]) -> str:
    """The first of them with their sizes, and how many more there are."""
    shown = [str(variant) for variant in variants]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
