"""The connections of clients: how many there may be, and how long one may take over what.

    waiting ──bytes──▶ asking ──its headers are complete──▶ answering ──its answer is──▶ waiting
       │ idle_seconds     │ head_seconds, head_bytes            │ stall_seconds in which the client takes nothing
       ▼                  ▼                                     ▼
     closed           408, 431, closed                       aborted

An answer may take as long as it takes: only a client that no longer reads what is written to it is given up. The body
of a request has its own limits (access). When there are too many connections, the one whose last request is longest ago
is closed, as HTTP allows; if all are being answered, the new one gets a 503.

A Connection stands between the loop's transport and the HTTP server's own protocol, whose parser it does not know.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

logger = logging.getLogger(__name__)

# A client that is refused before it has sent everything would see a reset instead of the answer.
LINGER_SECONDS = 1.0
# Of the descriptors a process may have open, those for models, downloads and files.
OTHER_FILES = 256
_PHRASES = {408: "Request Timeout", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many, how large, and how long in seconds; infinity is no limit."""

    connections: int = 4096
    head_seconds: float = 20.0
    head_bytes: int = 65536
    idle_seconds: float = 75.0
    stall_seconds: float = 300.0


class Connections:
    """All of one daemon. Belongs to its event loop."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open: set[Connection] = set()
        self._uses = itertools.count()  # not a clock: many may come within one tick of the loop's

    def protocol_factory(self, make_protocol: Callable[..., asyncio.Protocol]) -> Callable[..., asyncio.Protocol]:
        """What makes the protocol of each new connection; `make_protocol` makes the HTTP server's own."""
        return lambda *arguments, **keywords: Connection(self, make_protocol(*arguments, **keywords))

    def admit(self, connection: Connection) -> bool:
        """Whether a new connection may stay; one that nobody needs may have to go for it."""
        if len(self._open) >= self.limits.connections:
            oldest = min((one for one in self._open if not one.is_answering), key=_last_use, default=None)
            if oldest is None:
                logger.warning("all %d connections are being answered; a new one is refused", len(self._open))
                return False
            oldest.close()
            self._open.discard(oldest)
        self._open.add(connection)
        return True

    def next_use(self) -> int:
        """A number larger than all before."""
        return next(self._uses)

    def forget(self, connection: Connection) -> None:
        """It is closed."""
        self._open.discard(connection)


class Connection(asyncio.Protocol):
    """One of them. `http` is the HTTP server's protocol, whose `cycle` is the request it answers."""

    def __init__(self, connections: Connections, http: asyncio.Protocol) -> None:
        self.last_use = connections.next_use()
        self._connections = connections
        self._limits = connections.limits
        self._http: Any = http
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._owed_bytes = 0
        self._refusal = b""
        self._is_refused = False

    @property
    def is_answering(self) -> bool:
        """Whether a request is complete but for its body, and its answer is not."""
        cycle = self._http.cycle
        return cycle is not None and not cycle.response_complete

    def close(self) -> None:
        """Close it after what has been written."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none of asyncio's classes
        self._http.connection_made(transport)
        if self._connections.admit(self):
            self._set_timer(self._limits.idle_seconds, self.close)
        else:  # told once it asks: before that it might not be listening
            self._refusal = _answer(503, f"the {self._limits.connections} connections there may be are all in use")
            self._set_timer(LINGER_SECONDS, self.close)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._refusal:
            self._refuse(self._refusal)
            return
        before, was_answering = self._http.cycle, self.is_answering
        has_body_to_come = before is not None and before.more_body
        self._http.data_received(data)
        if self._http.cycle is not before:
            self._begin_request(self._http.cycle.scope)
        elif has_body_to_come:
            self._count_body(len(data), is_wanted=was_answering)
        else:
            self._count_head(len(data), is_answering=was_answering)

    def eof_received(self) -> bool | None:
        answer: bool | None = self._http.eof_received()
        return answer

    def pause_writing(self) -> None:
        self._http.pause_writing()
        if math.isfinite(self._limits.stall_seconds):
            self._stall = self._loop.call_later(self._limits.stall_seconds, self._give_up)

    def resume_writing(self) -> None:
        self._end_stall()
        self._http.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.forget(self)
        self._clear_timer()
        self._end_stall()
        self._http.connection_lost(exc)

    def _begin_request(self, scope: Mapping[str, Any]) -> None:
        """The headers of a request are complete."""
        self.last_use = self._connections.next_use()
        self._clear_timer()
        self._head_bytes = 0
        length = dict(scope["headers"]).get(b"content-length", b"")
        self._owed_bytes = int(length) if length.isdigit() else self._limits.head_bytes

    def _count_body(self, size_bytes: int, *, is_wanted: bool) -> None:
        """More of a body; one that nobody reads any more may come to its end, if it does so soon."""
        beyond = max(0, size_bytes - self._owed_bytes)
        self._owed_bytes = max(0, self._owed_bytes - size_bytes)
        if is_wanted:
            return
        if self._timer is None:
            self._set_timer(self._limits.head_seconds, self.close)
        self._head_bytes += beyond
        if self._head_bytes > self._limits.head_bytes:
            self._abort()

    def _count_head(self, size_bytes: int, *, is_answering: bool) -> None:
        """More of the head of the next request; while another is answered it can wait, but not grow."""
        if not is_answering and not self._head_bytes:
            self._set_timer(self._limits.head_seconds, self._refuse_slow)
        self._head_bytes += size_bytes
        if self._head_bytes <= self._limits.head_bytes:
            return
        if is_answering:
            self._abort()
        else:
            self._refuse(_answer(431, f"the headers are larger than {self._limits.head_bytes} bytes"))

    def _refuse_slow(self) -> None:
        seconds = f"{self._limits.head_seconds:g} s"
        self._refuse(_answer(408, f"the headers were not complete within {seconds}"))

    def _refuse(self, answer: bytes) -> None:
        """Answer and close; what still comes is not looked at."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._is_refused = True
        transport.write(answer)
        if transport.can_write_eof():
            transport.write_eof()
        self._set_timer(LINGER_SECONDS, transport.abort)

    def _give_up(self) -> None:
        logger.info("a client has read nothing for %g s; its connection is closed", self._limits.stall_seconds)
        self._abort()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _set_timer(self, seconds: float, ended: Callable[[], None]) -> None:
        self._clear_timer()
        if math.isfinite(seconds):
            self._timer = self._loop.call_later(seconds, ended)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def _last_use(connection: Connection) -> int:
    return connection.last_use


def _answer(status: int, message: str) -> bytes:
    """A whole answer to a request whose path, and so whose dialect, is not known."""
    body = b'{"error":"%s"}' % message.encode()
    lines = (
        f"HTTP/1.1 {status} {_PHRASES[status]}",
        "content-type: application/json; charset=utf-8",
        f"content-length: {len(body)}",
        *(["retry-after: 1"] if status == 503 else []),
        "connection: close",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def raise_open_files(wanted: int) -> int:
    """Let this process have `wanted` more files open than it needs anyway; returns how many connections it may have."""
    try:
        import resource  # does not exist on Windows, which has no such limit either
    except ImportError:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = max(1, soft - OTHER_FILES)
    logger.warning("only %d connections may be open, not %d: the limit of open files is %d", allowed, wanted, soft)
    return allowed
