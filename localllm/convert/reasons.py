"""What ended a converter, as the last event of its process: in words for a person, with what to do. Pure."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence

from localllm.generation import Failed

PULL = "pull a GGUF that somebody converted: localllm search WORD"
_MOST_TEXT = 400
_NO_ARCHITECTURE = re.compile(r"(?:Model|Architecture) '?([\w.-]+)'? (?:is )?not supported")
# numpy's words, which come without a number.
_FULL = re.compile(r"Not enough free space to write|\d+ requested and \d+ written")
_NO_QUANTIZATION = re.compile(r"(?:Quant method|Quant format) .*not yet supported")


def of_refusal(refused: Sequence[str]) -> Failed:
    """The converter was about to do what it may not."""
    message = f"the model cannot be converted without what localllm forbids there: {', '.join(refused)}"
    hint = f"no program that comes with a model is run; {PULL}"
    return Failed("unsupported", 400, message, hint)


def of_exit(status: object, errors: Sequence[str]) -> Failed:
    """The converter's script gave up by itself; the last of the errors it told is why."""
    text = next(reversed(errors), "")
    return _known(text) or _failed(text or f"it ended with {status}")


def of_exception(error: BaseException, where: str) -> Failed:
    """An exception that nobody caught; `where` names the place in the converter."""
    text = str(error).strip()
    if isinstance(error, OSError) and (error.errno in (errno.ENOSPC, errno.EDQUOT) or _FULL.match(text)):
        hint = "make room, or point LOCALLLM_MODELS at another disk"
        return Failed("disk_full", 507, "the disk is full: the converted model does not fit", hint)
    if isinstance(error, MemoryError):
        hint = "end other programs: the largest tensors must fit as they are converted"
        return Failed("convert_failed", 500, "there is not enough memory to convert the model", hint)
    if isinstance(error, ImportError):
        return Failed("unsupported", 400, f"the converter misses a library: {text}", "install it beside localllm")
    if isinstance(error, KeyError):
        text = f"{text} is missing, or not among what it knows"
    return _known(text) or _failed(f"{text or type(error).__name__} ({where})" if where else text)


def _known(text: str) -> Failed | None:
    if found := _NO_ARCHITECTURE.search(text):
        message = f"llama.cpp's converter knows no models of the architecture {found[1]}"
        return Failed("unsupported", 400, message, "the engine of this localllm would not run it either")
    if "pre-tokenizer was not recognized" in text:
        message = "llama.cpp's converter does not recognize how the model's tokenizer splits text"
        hint = f"tokenizer files that were changed, or are newer than the engine, cannot be converted; {PULL}"
        return Failed("unsupported", 400, message, hint)
    if _NO_QUANTIZATION.search(text):
        hint = f"convert the original weights instead, or {PULL}"
        return Failed("unsupported", 400, f"llama.cpp's converter does not read these weights: {_short(text)}", hint)
    return None


def _failed(text: str) -> Failed:
    hint = f"look for files that are missing or changed beside the weights; or {PULL}"
    return Failed("bad_model_file", 400, f"llama.cpp's converter cannot read the model: {_short(text)}", hint)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_TEXT else f"{line[:_MOST_TEXT]}…"
