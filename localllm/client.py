"""The HTTP client of the daemon: our Ollama dialect with types, for the CLI and for programs.

It does not start a daemon (cli/daemonize does) and prints nothing. A `Client` owns one connection pool; answers are
frozen structs, streams are generators whose `close()` closes the connection, by which the daemon frees the request.

    with Client("http://127.0.0.1:11434") as client:
        for chunk in client.chat(ChatRequest("guide", (Turn("user", "hello"),))):
            ...

Durations are nanoseconds and sizes bytes, as on the wire. Errors: DaemonAbsentError when nothing listens,
DaemonError when the connection breaks or the answer is not ours, and for `{"error": …}` the class that fits its
`code` or status (ModelNotFoundError for 404, …), else RemoteError.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Generator, Iterator
from datetime import datetime
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from localllm.client_models import Details, ModelInfo
from localllm.client_plans import Placement, PlanAnswer, PlanBody
from localllm.connecting import ANSWER_SECONDS, CONNECT_SECONDS, LOOK_AT_LOG, connection_errors, http_client, httpx
from localllm.errors import BadRequestError, DaemonError
from localllm.remote_errors import error_of, stream_error

_VERSION_SECONDS = 5.0
_PLAN_SECONDS = 120.0  # the header of a model that is not here comes over the network


class Version(msgspec.Struct, frozen=True):
    """What answers at the address. `localllm` is our version, None when it is another program (Ollama, …)."""

    version: str = ""
    localllm: str | None = None


class ModelSummary(msgspec.Struct, frozen=True):
    """One row of `list`. `digest` is hex without a prefix."""

    name: str
    size: int = 0
    digest: str = ""
    modified_at: datetime | None = None
    details: Details = Details()
    capabilities: tuple[str, ...] | None = None


class RunningModel(msgspec.Struct, frozen=True):
    """One row of `ps`. `active` and `waiting` count requests; these two, `state` and `placement` are localllm's own."""

    name: str
    size: int = 0
    size_vram: int = 0
    digest: str = ""
    details: Details = Details()
    expires_at: datetime | None = None
    context_length: int | None = None
    state: str | None = None
    active: int | None = None
    waiting: int | None = None
    placement: Placement | None = None


class QueuedRequest(msgspec.Struct, frozen=True):
    """A request that waits; `position` 1 is next. `eta_duration` None: nobody can say when it starts."""

    model: str = ""
    position: int = 0
    client: str = ""
    priority: str = ""
    waited_duration: int = 0
    eta_duration: int | None = None


class Turn(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a conversation, as it is sent. `role` is system, user, assistant or tool."""

    role: str
    content: str = ""
    thinking: str | None = None
    tool_calls: tuple[dict[str, Any], ...] | None = None
    tool_name: str | None = None


class TurnPiece(msgspec.Struct, frozen=True):
    """A piece of the assistant's turn, as it arrives. Tool calls come whole."""

    content: str = ""
    thinking: str | None = None
    tool_calls: tuple[dict[str, Any], ...] | None = None


class GenerateRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of /api/generate. `format` is "json" or a JSON schema; an empty prompt loads the model."""

    model: str
    prompt: str = ""
    system: str | None = None
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None
    keep_alive: float | str | None = None
    options: dict[str, Any] | None = None
    debug_render_only: bool = msgspec.field(default=False, name="_debug_render_only")


class ChatRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of /api/chat; no messages load the model."""

    model: str
    messages: tuple[Turn, ...] = ()
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None
    keep_alive: float | str | None = None
    options: dict[str, Any] | None = None
    tools: tuple[dict[str, Any], ...] | None = None


class Metrics(msgspec.Struct, frozen=True):
    """What a last chunk says about its request: nanoseconds and token counts, 0 when not said. `fallback` is why
    something of the model is on the CPU that was meant for a GPU."""

    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_cached_count: int = 0
    dropped_tokens: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    drafted_count: int = 0
    accepted_count: int = 0
    fallback: str = ""


class GenerateChunk(Metrics, frozen=True):
    """One piece of an answer to /api/generate; metrics and `done_reason` come with `done`."""

    response: str = ""
    thinking: str | None = None
    done: bool = False
    done_reason: str | None = None


class RenderedPrompt(msgspec.Struct, frozen=True):
    """A prompt as the model would get it: its text, and the ids of its tokens."""

    text: str = msgspec.field(name="rendered_template")
    tokens: tuple[int, ...] = ()


class _Rendered(msgspec.Struct, frozen=True):
    prompt: RenderedPrompt = msgspec.field(name="_debug_info")


class ChatChunk(Metrics, frozen=True):
    """One piece of an answer to /api/chat; metrics and `done_reason` come with `done`."""

    message: TurnPiece = TurnPiece()
    done: bool = False
    done_reason: str | None = None


class PullBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of /api/pull. `limit_rate` is bytes per second, 0 for no limit; `quant` "" is the usual one."""

    model: str
    limit_rate: int = 0
    quant: str = ""


class PullLine(msgspec.Struct, frozen=True):
    """How a pull goes: a status in words; with a `digest` how much of one file is there, in bytes."""

    status: str = ""
    digest: str | None = None
    file: str | None = None
    total: int = 0
    completed: int = 0

    @property
    def done(self) -> bool:
        return self.status == "success"


class _ModelList(msgspec.Struct):
    models: tuple[ModelSummary, ...] | None = None


class _RunningList(msgspec.Struct):
    models: tuple[RunningModel, ...] | None = None
    queue: tuple[QueuedRequest, ...] | None = None


_Chunk = TypeVar("_Chunk", GenerateChunk, ChatChunk, PullLine)
_Answer = TypeVar("_Answer")


class Client:
    """The daemon at `base_url`. Close it, or use it as a context manager.

    `transport` replaces the network (httpx.MockTransport in tests), `tls` says whom to trust (httpx's choice without).
    Proxies of the environment are not used for a loopback address: a proxy cannot reach this machine's own daemon.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
        tls: ssl.SSLContext | None = None,
        hear_ignored: Callable[[str], None] | None = None,
    ) -> None:
        self.base_url = base_url
        self._http = http_client(base_url, api_key, transport, tls, hear_ignored)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; running streams end."""
        self._http.close()

    def version(self) -> Version:
        """Ask what answers at the address; waits a few seconds at most."""
        return self._ask("GET", "/api/version", Version, seconds=_VERSION_SECONDS)

    def tags(self) -> tuple[ModelSummary, ...]:
        """The models there are, newest first."""
        return self._ask("GET", "/api/tags", _ModelList).models or ()

    def ps(self) -> tuple[RunningModel, ...]:
        """The models that are loaded or loading."""
        return self._ask("GET", "/api/ps", _RunningList).models or ()

    def queue(self) -> tuple[QueuedRequest, ...]:
        """The requests that wait, model by model, next first."""
        return self._ask("GET", "/api/ps", _RunningList).queue or ()

    def show(self, name: str, *, verbose: bool = False) -> ModelInfo:
        """Everything about one model; `verbose` includes long arrays of its metadata. Raises ModelNotFoundError."""
        return self._ask("POST", "/api/show", ModelInfo, {"model": name, "verbose": verbose}, name=name)

    def plan(self, body: PlanBody) -> PlanAnswer:
        """How a model would lie; one that is not here is looked up where it is pulled from. Raises LocalllmErrors."""
        return self._ask("POST", "/api/plan", PlanAnswer, body, name=body.model, seconds=_PLAN_SECONDS)

    def delete(self, name: str) -> None:
        """Remove a model. Raises ModelNotFoundError."""
        self._ask("DELETE", "/api/delete", None, {"model": name}, name=name)

    def copy(self, source: str, destination: str) -> None:
        """Give a model a second name. Raises ModelNotFoundError."""
        self._ask("POST", "/api/copy", None, {"source": source, "destination": destination}, name=source)

    def stop(self, name: str) -> None:
        """Unload a model; waits for its running requests. Raises ModelNotFoundError."""
        body = {"model": name, "keep_alive": 0, "stream": False}
        self._ask("POST", "/api/generate", GenerateChunk, body, name=name, seconds=None)

    def pull(self, name: str, limit_bytes_per_second: int = 0, quant: str = "") -> Generator[PullLine, None, None]:
        """Download a model. Ends with a line that is `done`, or raises; closing it stops the download."""
        return self._stream("/api/pull", name, PullBody(name, limit_bytes_per_second, quant), PullLine)

    def generate(self, request: GenerateRequest) -> Generator[GenerateChunk, None, None]:
        """Stream an answer to a prompt. Ends with a chunk that is `done`, or raises."""
        return self._stream("/api/generate", request.model, request, GenerateChunk)

    def render(self, request: GenerateRequest) -> RenderedPrompt:
        """What a prompt becomes for the model, without an answer; loads the model if it is not."""
        body = msgspec.to_builtins(msgspec.structs.replace(request, debug_render_only=True))
        return self._ask("POST", "/api/generate", _Rendered, body, name=request.model, seconds=None).prompt

    def chat(self, request: ChatRequest) -> Generator[ChatChunk, None, None]:
        """Stream the next turn of a conversation. Ends with a chunk that is `done`, or raises."""
        return self._stream("/api/chat", request.model, request, ChatChunk)

    def _ask(
        self,
        method: str,
        path: str,
        kind: type[_Answer] | None,
        body: dict[str, object] | PlanBody | None = None,
        *,
        name: str = "",
        seconds: float | None = ANSWER_SECONDS,
    ) -> _Answer:
        content = None if body is None else _encoded(body)
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        with connection_errors(self.base_url):
            response = self._http.request(method, path, content=content, headers=_JSON, timeout=timeout)
        if response.is_error:
            raise error_of(response.content, response.status_code, name)
        return _decoded(response.content, kind, self.base_url) if kind else None  # type: ignore[return-value]

    def _stream(
        self, path: str, name: str, body: GenerateRequest | ChatRequest | PullBody, kind: type[_Chunk]
    ) -> Generator[_Chunk, None, None]:
        # No read timeout: a prompt may wait in a queue, or a model load, for longer than any number picked here.
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
        content = _encoded(body)
        with (
            connection_errors(self.base_url),
            self._http.stream("POST", path, content=content, headers=_JSON, timeout=timeout) as response,
        ):
            if response.is_error:
                raise error_of(response.read(), response.status_code, name)
            for line in _lines(response.iter_bytes()):
                if b'"error"' in line and (error := stream_error(line, name)):
                    raise error
                chunk = _decoded(line, kind, self.base_url)
                yield chunk
                if chunk.done:
                    return
        raise DaemonError("the daemon closed the connection before the answer was complete", hint=LOOK_AT_LOG)


_JSON = {"Content-Type": "application/json"}


def _encoded(body: object) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError as error:  # an argument of the command line in another encoding
        where = ascii(error.object[max(0, error.start - 20) : error.end + 20])
        raise BadRequestError(f"this is not UTF-8 text: {where}", hint="write it in UTF-8") from None


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    # Not httpx's iter_lines: it also splits at U+2028 and U+0085, which JSON strings may hold unescaped.
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line for line in whole if line.strip())
    if rest.strip():
        yield rest


def _decoded(body: bytes, kind: type[_Answer], base_url: str) -> _Answer:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise DaemonError(
            f"what answers at {base_url} does not speak localllm's API ({error})",
            hint="LOCALLLM_HOST says where the daemon is",
        ) from error
