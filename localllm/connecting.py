"""Connections to a daemon: httpx set up for it, and what goes wrong on the way in our own errors.

Only the client needs it; what is asked and answered is known there.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from localllm.errors import DaemonAbsentError, DaemonError, UntrustedError


@contextmanager
def _without_httpx_command_line() -> Iterator[None]:
    # `import httpx` also imports its own command line, and with it rich, click and pygments: 40 of its 100 ms.
    name = "httpx._main"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


with _without_httpx_command_line():
    import httpx as httpx

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
LOOK_AT_LOG = "its log says why; send the request again"


def http_client(
    base_url: str,
    api_key: str | None,
    transport: httpx.BaseTransport | None,
    tls: ssl.SSLContext | None,
    hear_ignored: Callable[[str], None] | None = None,
) -> httpx.Client:
    """A connection pool; whoever gets it closes it. `transport` replaces the network, `tls` says whom to trust.

    `hear_ignored` is told, once an answer begins, each thing that the daemon says changed nothing.
    """

    def look(response: httpx.Response) -> None:
        for name in response.headers.get("x-localllm-ignored", "").split(", "):
            if name and hear_ignored is not None:
                hear_ignored(name)

    return httpx.Client(
        base_url=base_url,
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        trust_env=not _is_loopback(base_url),
        transport=transport,
        verify=True if tls is None else tls,
        event_hooks={"response": [look]},
    )


@contextmanager
def connection_errors(base_url: str) -> Iterator[None]:
    """Around a request: raises DaemonAbsentError when nobody listens, DaemonError for all else that can go wrong."""
    try:
        yield
    except httpx.ConnectError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise UntrustedError(
                f"the certificate of {base_url} is not trusted ({error})",
                hint="LOCALLLM_TLS_CA names a file with the certificate, or with that of who signed it",
            ) from error
        if "[SSL" in str(error):  # what httpcore makes of it has lost its cause
            raise UntrustedError(
                f"what listens at {base_url} does not speak https ({error})",
                hint="LOCALLLM_HOST with http:// asks it without",
            ) from error
        raise DaemonAbsentError(
            f"nothing answers at {base_url} ({error})", hint="`localllm serve` starts the daemon"
        ) from error
    except httpx.TimeoutException as error:
        raise DaemonError(f"{base_url} did not answer in time", hint="try again, or restart what runs there") from error
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise DaemonError(f"the connection to {base_url} broke ({error})", hint=LOOK_AT_LOG) from error


def _is_loopback(base_url: str) -> bool:
    return (host := httpx.URL(base_url).host) in ("localhost", "::1") or host.startswith("127.")
