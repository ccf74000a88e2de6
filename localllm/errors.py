"""Every error localllm raises on purpose, in one tree.

    LocalllmError
    ├── ConfigError                  a setting is unknown or malformed
    ├── BadRequestError         400  the request cannot be served as asked
    │   ├── InvalidNameError    400  not a model name
    │   ├── InvalidOptionError  400  an option has the wrong type or an impossible value
    │   ├── InvalidFieldError   400  a field of the request has the wrong type or an impossible value
    │   │   └── PreviousResponseError 400  no such response to go on from
    │   ├── PromptTooLongError  400  the prompt does not fit the context
    │   ├── InputTooLongError   400  a text to embed does not fit the context
    │   ├── UnsupportedError    400  the model (or this version) cannot do that
    │   ├── TemplateError       400  the chat template refused the conversation
    │   ├── ImpossibleWishError 400  the model cannot be laid out as it was asked for
    │   └── ModelFileError      400  not a GGUF, or one that lies about itself
    ├── UnauthorizedError       401  an API key is needed
    ├── AccessDeniedError       403  a foreign Host or Origin
    ├── ModelNotFoundError      404  no model of that name
    ├── ResponseNotFoundError   404  no response of that id, or it is another key's
    ├── ResponseCancelledError  409  somebody cancelled the response
    ├── SlowBodyError           408  the request's body did not come in time
    ├── PayloadTooLargeError    413  the body is over the limit
    ├── QueueFullError          503  too many requests wait for that model
    ├── ShuttingDownError       503  the daemon is stopping
    ├── RunnerError             500  the model's process failed
    │   ├── LoadError           500  the model could not be loaded
    │   │   ├── DoesNotFitError 500  nothing here holds the model
    │   │   └── OutOfMemoryError 500 a device refused an allocation while the model loaded
    │   ├── RunnerCrashedError  500  the process died while requests ran
    │   ├── RunnerTimeoutError  500  the process did not answer in time and was replaced
    │   └── EngineMismatchError 500  the engine was built for another CPU
    ├── RequestTimeoutError     504  the request's own deadline has passed
    ├── HubError                502  Hugging Face's hub or Ollama's registry, or the way to it, failed
    │   ├── HubAccessError      403  the repository is private, or its terms have not been accepted
    │   └── WrongHashError      502  what was downloaded is not what the hub or registry says it is
    ├── NotOnHubError           404  no such repository or model there, or no such file in it
    ├── DiskFullError           507  the download does not fit the disk
    ├── RemoteError                  the daemon answered with an error that has no class of its own here
    └── DaemonError                  the CLI cannot reach, start or trust the daemon
        ├── DaemonAbsentError        nothing listens at the daemon's address
        └── UntrustedError           what listens there has no certificate, or one that is not trusted

An error carries a stable `code`, an HTTP `status`, a message for a person and, where there is one, the next thing to do
as `hint`. Nothing here prints or exits: only the CLI and the HTTP layer speak to people.
"""

from __future__ import annotations

from typing import ClassVar


class LocalllmError(Exception):
    """The root. `str(error)` is one sentence without a full stop; `hint` is what to do next, or None."""

    code: str = "internal_error"  # of an error that comes back from a Failed: as it was told
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(LocalllmError):
    """A setting is unknown or malformed; the message names the variable or key and the accepted form."""

    code = "config_error"


class BadRequestError(LocalllmError):
    """The request cannot be served as asked."""

    code = "bad_request"
    status = 400


class InvalidNameError(BadRequestError):
    """Not a model name."""

    code = "invalid_name"


class InvalidOptionError(BadRequestError):
    """An option has the wrong type or an impossible value; `option` is what the client called it, or None."""

    code = "invalid_option"

    def __init__(self, message: str, *, option: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.option = option


class InvalidFieldError(BadRequestError):
    """A field of the request's body has the wrong type or an impossible value; `field` is its path, or None."""

    code = "invalid_field"

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.field = field


class PreviousResponseError(InvalidFieldError):
    """The response to go on from is not there, or not over."""

    code = "previous_response_not_found"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, field="previous_response_id", hint=hint)


class PromptTooLongError(BadRequestError):
    """The prompt does not fit the context. Agents match on these words to shorten a conversation and ask again."""

    code = "prompt_too_long"

    def __init__(self, prompt_tokens: int, context_tokens: int) -> None:
        more = ">" if prompt_tokens > context_tokens else ">="  # which leaves no token for the answer
        super().__init__(
            f"the prompt is too long: {prompt_tokens} tokens {more} {context_tokens} maximum context length",
            hint="shorten the prompt, or ask for a larger num_ctx if the model and memory allow it",
        )
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens


class InputTooLongError(BadRequestError):
    """A text to embed does not fit the context; the first words are Ollama's, which clients match on."""

    code = "input_too_long"

    def __init__(self, input_tokens: int, context_tokens: int) -> None:
        super().__init__(
            f"the input length exceeds the context length: it has {input_tokens} tokens, the context holds"
            f" {context_tokens}",
            hint="send shorter pieces, or `truncate`: true",
        )
        self.input_tokens = input_tokens
        self.context_tokens = context_tokens


class UnsupportedError(BadRequestError):
    """The model, or this version of localllm, cannot do that."""

    code = "unsupported"


class TemplateError(BadRequestError):
    """The model's chat template refused the conversation."""

    code = "template_error"


class ImpossibleWishError(BadRequestError):
    """How the model shall lie cannot be on this machine, or contradicts itself; the message says what can."""

    code = "impossible_wish"


class ModelFileError(BadRequestError):
    """The file is not a GGUF, is cut short, or says things about itself that cannot be true."""

    code = "bad_model_file"


class UnauthorizedError(LocalllmError):
    """An API key is needed and none, or a wrong one, was sent."""

    code = "unauthorized"
    status = 401


class AccessDeniedError(LocalllmError):
    """A Host or Origin that may not talk to this daemon."""

    code = "access_denied"
    status = 403


class ModelNotFoundError(LocalllmError):
    """No model of that name; the text is Ollama's, which clients match on."""

    code = "model_not_found"
    status = 404

    def __init__(self, name: str) -> None:
        super().__init__(f"model '{name}' not found", hint="`localllm list` shows the models there are")
        self.name = name


class SlowBodyError(LocalllmError):
    """The request's body did not come in time."""

    code = "slow_body"
    status = 408


class ResponseNotFoundError(LocalllmError):
    """No response of that id is kept for whoever asks."""

    code = "response_not_found"
    status = 404

    def __init__(self, response_id: str) -> None:
        super().__init__(
            f"Response with id '{response_id}' not found.",
            hint="responses are kept in memory and for a time only, and not at all with `store`: false",
        )


class ResponseCancelledError(LocalllmError):
    """Somebody cancelled the response before it was complete."""

    code = "cancelled"
    status = 409


class PayloadTooLargeError(LocalllmError):
    """The request body is over the limit."""

    code = "payload_too_large"
    status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"the request body is larger than {limit_bytes} bytes",
            hint="send less, or raise LOCALLLM_MAX_BODY_BYTES",
        )
        self.limit_bytes = limit_bytes


class QueueFullError(LocalllmError):
    """Too many requests wait for that model already."""

    code = "queue_full"
    status = 503

    def __init__(self, model: str, waiting: int, limit: int, retry_after_seconds: int) -> None:
        super().__init__(
            f"server busy, please try again: {waiting} requests wait for '{model}' and the limit is {limit}",
            hint=f"retry in about {retry_after_seconds} s, or raise LOCALLLM_MAX_QUEUE",
        )
        self.waiting = waiting
        self.limit = limit
        self.retry_after_seconds = retry_after_seconds


class ShuttingDownError(LocalllmError):
    """The daemon is stopping and takes no new requests."""

    code = "shutting_down"
    status = 503

    def __init__(self, message: str = "the server is shutting down") -> None:
        super().__init__(message, hint="send the request again once it runs")


class RequestTimeoutError(LocalllmError):
    """The time that the request's X-Request-Timeout allows has passed."""

    code = "request_timeout"
    status = 504

    def __init__(
        self, message: str, *, hint: str | None = "allow more with X-Request-Timeout, or ask for a shorter answer"
    ) -> None:
        super().__init__(message, hint=hint)


class RunnerError(LocalllmError):
    """The model's process failed."""

    code = "runner_error"


class LoadError(RunnerError):
    """The model could not be loaded."""

    code = "load_failed"


class DoesNotFitError(LoadError):
    """No arrangement of the model fits the memory that is there; `missing_bytes` is by how much the nearest fails."""

    code = "does_not_fit"

    def __init__(self, message: str, missing_bytes: int = 0, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.missing_bytes = missing_bytes


class OutOfMemoryError(LoadError):
    """A device had not the memory that the plan counted on. `free_bytes` None: nobody knows what it had."""

    code = "out_of_memory"

    def __init__(self, message: str, device: str, wanted_bytes: int, free_bytes: int | None) -> None:
        super().__init__(message, hint="end other programs, or load a smaller model or context")
        self.device = device
        self.wanted_bytes = wanted_bytes
        self.free_bytes = free_bytes


class RunnerCrashedError(RunnerError):
    """The model's process died while requests ran; the next request starts a new one."""

    code = "runner_crashed"


class RunnerTimeoutError(RunnerError):
    """The model's process did not answer in time and was replaced."""

    code = "runner_timeout"


class EngineMismatchError(RunnerError):
    """The engine was built for another CPU and dies on this one."""

    code = "engine_mismatch"


class HubError(LocalllmError):
    """Hugging Face's hub or Ollama's registry, or the way to it, failed."""

    code = "hub_error"
    status = 502


class HubAccessError(HubError):
    """The repository is private, or its terms have not been accepted with the token that was sent."""

    code = "hub_access"
    status = 403


class WrongHashError(HubError):
    """What was downloaded is not what the hub or registry says it is."""

    code = "wrong_hash"


class NotOnHubError(LocalllmError):
    """No such repository on the hub or model in the registry, or no such file in it."""

    code = "not_on_hub"
    status = 404


class DiskFullError(LocalllmError):
    """The download does not fit the disk."""

    code = "disk_full"
    status = 507


class DaemonError(LocalllmError):
    """The CLI cannot reach, start or trust the daemon."""

    code = "daemon_error"


class DaemonAbsentError(DaemonError):
    """Nothing listens at the daemon's address."""

    code = "daemon_absent"


class UntrustedError(DaemonError):
    """What listens at the daemon's address has no certificate, or one that is not trusted."""

    code = "untrusted"


class RemoteError(LocalllmError):
    """The daemon answered with an error that has no class of its own here; `http_status` is its HTTP status."""

    code = "remote_error"

    def __init__(self, message: str, http_status: int, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.http_status = http_status
