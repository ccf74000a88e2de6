"""The daemon's listening socket: opened before anything else starts, so that a taken port costs nothing.

Says who holds a taken port, as far as it answers, and refuses to listen where other machines can reach an open API.
"""

from __future__ import annotations

import errno
import http.client
import ipaddress
import socket
import ssl
import sys

import msgspec

from localllm.config import Address, Settings
from localllm.errors import ConfigError, DaemonError
from localllm.keys import read_keys
from localllm.tls import server_context

BACKLOG = 2048
ANSWER_SECONDS = 2.0


class _Version(msgspec.Struct):
    version: str = ""
    localllm: str | None = None


def open_listener(settings: Settings) -> socket.socket:
    """A listening socket at the configured address; the caller closes it.

    Raises DaemonError when the address cannot be had, ConfigError when it needs an API key or a certificate.
    """
    address = settings.address
    if settings.tls_cert is not None:
        server_context(settings.tls_cert, settings.tls_key)
    elif address.is_tls:
        raise ConfigError(
            "LOCALLLM_HOST asks for https, but there is no certificate",
            hint="LOCALLLM_TLS_CERT and LOCALLLM_TLS_KEY name its files; or leave https:// out",
        )
    family, sockaddr = _resolve(address)
    has_key = bool(settings.api_key) or bool(read_keys(settings.keys_file))
    if not has_key and not _is_loopback(sockaddr[0]):
        raise ConfigError(
            f"other machines can reach {address.host}, but no API key is set",
            hint="`localllm key new NAME` makes one; or set LOCALLLM_API_KEY, or LOCALLLM_HOST to 127.0.0.1",
        )
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # there it would let two programs share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(sockaddr)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(address, error) from error
    return listener


def is_exposed(listener: socket.socket) -> bool:
    """Whether other machines can reach it."""
    return not _is_loopback(str(listener.getsockname()[0]))


def bound_address(listener: socket.socket, wanted: Address) -> Address:
    """Where it listens; the real port when 0 was asked for."""
    host, port = listener.getsockname()[:2]
    return wanted._replace(host=host, port=port)


def who_answers(address: Address) -> str:
    """Who holds the port: "another localllm (VERSION)", "Ollama VERSION" or "another program"."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    try:
        body = _get(address._replace(host=host), "/api/version")
        version = msgspec.json.decode(body, type=_Version)
    except (OSError, http.client.HTTPException, msgspec.DecodeError, UnicodeDecodeError):
        return "another program"
    if version.localllm is not None:
        return f"another localllm ({version.localllm})"
    return f"Ollama {version.version}" if version.version else "another program"


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.split("%", 1)[0]).is_loopback


def _resolve(address: Address) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise DaemonError(f"{address.host} is not an address of this machine ({error})") from error
    # "localhost" may be both: clients try 127.0.0.1, and some only that.
    found.sort(key=lambda item: item[0] != socket.AF_INET)
    family, _, _, _, sockaddr = found[0]
    return family, (str(sockaddr[0]), address.port)


def _get(address: Address, path: str) -> bytes:
    connection: http.client.HTTPConnection
    if address.is_tls:  # it is asked for its name only, whoever it is
        anybody = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(address.host, address.port, timeout=ANSWER_SECONDS, context=anybody)
    else:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().read(65536)
    finally:
        connection.close()


def _cannot_listen(address: Address, error: OSError) -> DaemonError:
    place = f"{address.host}:{address.port}"
    if error.errno == errno.EADDRINUSE:
        return DaemonError(
            f"{place} is already used by {who_answers(address)}",
            hint="stop that program, or set LOCALLLM_HOST to another address such as 127.0.0.1:11435",
        )
    return DaemonError(f"cannot listen at {place}: {error.strerror}", hint="LOCALLLM_HOST sets the address")
