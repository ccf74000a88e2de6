"""Errors as events, and back: what crosses the runner's pipe, and what a stream ends with, is a Failed."""

from __future__ import annotations

from collections.abc import Iterator

from localllm.errors import (
    BadRequestError,
    InvalidFieldError,
    InvalidNameError,
    InvalidOptionError,
    LocalllmError,
    ModelNotFoundError,
    RunnerError,
)
from localllm.generation import Failed
from localllm.paths import without_folders

# Their messages repeat what the client wrote, and nothing of this machine.
_REPEAT_THE_REQUEST = (InvalidFieldError, InvalidNameError, InvalidOptionError, ModelNotFoundError)


def failed_from(error: LocalllmError, *, tells_folders: bool = False) -> Failed:
    """The event that ends a request with `error`, in words that tell no folder of this machine.

    Whoever manages models may be told (`tells_folders`): a download that finds a folder closed can be mended only so.
    """
    message, hint = error.message, error.hint
    if not tells_folders and not isinstance(error, _REPEAT_THE_REQUEST):
        message, hint = without_folders(message), without_folders(hint) if hint else hint
    return Failed(code=error.code, status=error.status, message=message, hint=hint)


def error_from(failed: Failed) -> LocalllmError:
    """The error a Failed stands for: of the class with its code, or else of the nearest general one, with that code.

    Classes whose instances carry more values than a message and a hint are never made from a Failed.
    """
    kind = _CLASS_OF_CODE.get(failed.code) or (BadRequestError if failed.status < 500 else RunnerError)
    error = kind(failed.message, hint=failed.hint)
    error.code = failed.code  # clients match on it, whatever class it is of here
    return error


def _plain_classes(root: type[LocalllmError]) -> Iterator[type[LocalllmError]]:
    if root.__init__ is LocalllmError.__init__:
        yield root
    for child in root.__subclasses__():
        yield from _plain_classes(child)


_CLASS_OF_CODE = {kind.code: kind for kind in _plain_classes(LocalllmError)}
