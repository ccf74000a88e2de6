"""Errors as they arrive over HTTP: the class that fits an error's code or status. Only the client needs it."""

from __future__ import annotations

import msgspec

from localllm import errors
from localllm.errors import LocalllmError, ModelNotFoundError, RemoteError


class _ErrorObject(msgspec.Struct):
    message: str = ""
    code: str | int | None = None


class _ErrorBody(msgspec.Struct):
    error: str | _ErrorObject | None = None
    code: str | None = None
    hint: str | None = None


def stream_error(line: bytes, name: str) -> LocalllmError | None:
    """The error that a line of a stream is, or None."""
    try:
        body = msgspec.json.decode(line, type=_ErrorBody)
    except msgspec.MsgspecError:  # the chunk decoder says what is wrong with it
        return None
    return error_of(line, 200, name) if body.error is not None else None


def error_of(content: bytes, status: int, name: str) -> LocalllmError:
    """The error that an answer's body is; `name` is the model that was asked for, or ""."""
    try:
        body = msgspec.json.decode(content, type=_ErrorBody)
    except msgspec.MsgspecError:  # a proxy's page, or another program's
        body = _ErrorBody(error=f"HTTP {status}")
    detail = body.error if isinstance(body.error, _ErrorObject) else _ErrorObject(message=body.error or "")
    message = detail.message or f"HTTP {status}"
    code = body.code or detail.code
    if name and (code == ModelNotFoundError.code or (code is None and status == 404)):
        missing = ModelNotFoundError(name)
        missing.hint = body.hint or missing.hint
        return missing
    if code == errors.ShuttingDownError.code:
        return errors.ShuttingDownError(message)
    kind = _PLAIN_BY_CODE.get(str(code)) or _PLAIN_BY_STATUS.get(status)
    return kind(message, hint=body.hint) if kind else RemoteError(message, status, hint=body.hint)


# Only classes whose constructor takes a message and a hint; others' numbers are not on the wire.
_PLAIN: tuple[type[LocalllmError], ...] = (
    errors.BadRequestError, errors.InvalidNameError, errors.InvalidOptionError, errors.UnsupportedError,
    errors.TemplateError, errors.ModelFileError, errors.UnauthorizedError, errors.AccessDeniedError,
    errors.RunnerError, errors.LoadError, errors.RunnerCrashedError, errors.RunnerTimeoutError,
    errors.EngineMismatchError, errors.HubError, errors.HubAccessError, errors.WrongHashError, errors.NotOnHubError,
    errors.DiskFullError,
)  # fmt: skip
_PLAIN_BY_CODE = {kind.code: kind for kind in _PLAIN} | {errors.PromptTooLongError.code: errors.BadRequestError}
_PLAIN_BY_STATUS = {400: errors.BadRequestError, 401: errors.UnauthorizedError, 403: errors.AccessDeniedError}
