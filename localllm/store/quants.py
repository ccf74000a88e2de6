"""What the name of a GGUF file says, as publishers write them: its quant, its model, which part or piece it is.

    Qwen3-8B-UD-Q4_K_XL-00001-of-00002.gguf     the quant UD-Q4_K_XL of Qwen3-8B, part 1 of 2
    M.i1-Q6_K.gguf.part1of2, M.Q8_0.gguf-split-a     pieces of one file, which somebody has to join

Pure. Of which model a file really is, and how it is quantized, its header says; this is what can be chosen by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# The usual one, then what is nearest to it: its neighbours with four bits, then more, then three, then huge or tiny.
QUANTS = tuple(
    """
    Q4_K_M UD-Q4_K_XL Q4_K_L Q4_K_S Q4_K IQ4_NL IQ4_XS MXFP4 MXFP4_MOE Q4_1 Q4_0 Q4
    Q5_K_M UD-Q5_K_XL Q5_K_L Q5_K_S Q5_K Q5_1 Q5_0 Q5
    Q6_K UD-Q6_K_XL Q6_K_L Q6 Q8_0 UD-Q8_K_XL Q8
    Q3_K_L UD-Q3_K_XL Q3_K_XL Q3_K_M Q3_K_S Q3_K IQ3_M IQ3_S IQ3_XS IQ3_XXS
    BF16 F16 F32
    Q2_K_L UD-Q2_K_XL Q2_K IQ2_M IQ2_S IQ2_XS IQ2_XXS TQ2_0 TQ1_0 IQ1_M IQ1_S
    """.split()
)
# Letters may follow a dash, or nothing (Q4-K-M, q4km); digits an underscore alone: in "Q8-2" the 2 is a version.
# One way to read each letter: names come from anybody, and two ways would be 2 ** n for n letters.
_STEP = r"_\d|_R\d|[-_]?(?:NL|XXS|XXL|XS|XL|[KSMLT])"
_QUANT = re.compile(
    rf"(?<![0-9A-Z])(?:(UD[-_])?((?:I?Q|TQ)\d)((?:{_STEP})*)|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32)(?![0-9A-Z])",
    re.ASCII,
)
_STEPS = re.compile(r"R?\d|NL|XXS|XXL|XS|XL|[KSMLT]", re.ASCII)
_NOT_OF_LLAMA_CPP = re.compile(r"_K_(S_S|[STL])")
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})", re.ASCII)
_PIECE = re.compile(
    r"(?P<whole>.+\.gguf)[-.](?:part-?(?:\d+(?:of\d+)?|[a-z]{1,2})|split-(?:\d+|[a-z]{1,2}))", re.ASCII | re.IGNORECASE
)
_NOT_ASKED_BY = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class FileName:
    """A path, read: `stem` is all of it without ".gguf" and the number of a part, `model` what stands before the quant.

    `family` tells models of one repository apart: the model, in its folder unless that is named after it. What is not
    told is "".
    """

    stem: str
    model: str
    family: str
    quant: str
    part: int = 1
    parts: int = 1


def read_path(path: str) -> FileName:
    """What the path of a GGUF file says. Some repositories name the quant by the folder: Q4_K_M/model.gguf."""
    whole = path[:-5]
    part = _PART.fullmatch(whole)
    stem = part["stem"] if part else whole
    folder, _, name = stem.rpartition("/")
    (quant, model), (folder_quant, place) = _without_quant(name), _without_quant(folder)
    family = model if place.rpartition("/")[2] == model else f"{place}/{model}".lstrip("/")
    parts = (int(part["number"]), int(part["count"])) if part else (1, 1)
    return FileName(stem, model, family.lower(), quant or folder_quant, *parts)


def _without_quant(text: str) -> tuple[str, str]:
    """The last quant of a text, and what stands before it."""
    quant, start = _last_quant(text)
    return quant, text[:start].rstrip("-_. /" if quant else "")


def quant_in(text: str) -> str:
    """The last quant in a text, as QUANTS has it; "" for none."""
    return _last_quant(text)[0]


def as_quant(text: str) -> str:
    """A text that is a quant and nothing else, as QUANTS has it; "" for another."""
    found = _QUANT.fullmatch(_upper(text))
    return _spelled(found) if found else ""


def _last_quant(text: str) -> tuple[str, int]:
    """The last quant, and where it starts: the end of a text without one."""
    found = list(_QUANT.finditer(_upper(text)))
    return (_spelled(found[-1]), found[-1].start()) if found else ("", len(text))


def _upper(text: str) -> str:
    """Upper case letter by letter: "ß" would become two, and every place after it another."""
    return "".join(letter.upper() if letter.isascii() else letter for letter in text)


def _spelled(found: re.Match[str]) -> str:
    dynamic, kind, rest = found.groups()
    if kind is None:
        return found[0].replace("FP16", "F16").replace("FP32", "F32")
    steps = "_".join((kind, *_STEPS.findall(rest)))
    if kind.startswith("I"):  # ik_llama.cpp's IQ4_KS and IQ4_KSS are kinds of their own
        steps = _NOT_OF_LLAMA_CPP.sub(lambda one: f"_K{one[1].replace('_', '')}", steps)
    return f"UD-{steps}" if dynamic else steps


def piece_of(path: str) -> str:
    """The path of the file of which the one at `path` is a piece that must be joined to others; "" for none."""
    found = _PIECE.fullmatch(path)
    return found["whole"] if found else ""


def asked_by(path: str) -> str:
    """How a file can be named behind "REPO:", where not every letter may stand: spaces and slashes become dashes."""
    return _NOT_ASKED_BY.sub("-", path).lstrip("-.")
