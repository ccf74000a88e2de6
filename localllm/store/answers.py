"""What a server's answer means to a download: where its bytes start, whether it may pass, how long to wait. Pure.

Of the hub and of Ollama's registry alike: both lead to another host for the bytes, by links that run out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from localllm.errors import HubError

_RANGE = re.compile(r"bytes (\d{1,18})-\d+/(?:(\d{1,18})|\*)", re.ASCII | re.IGNORECASE)
# Hugging Face's word for when its limit ends, where it sends no Retry-After: RateLimit: "resolvers";r=0;t=55
_WINDOW_ENDS = re.compile(r";\s*t\s*=\s*(\d{1,9})\b", re.ASCII)
_DEFAULT_PORTS = (80, 443)
_TRUST = (
    "SSL_CERT_FILE names a file with the certificates to trust, which must have that of a proxy that looks into "
    "connections; set or unset it and start the daemon again"
)
_BUSY = (408, 425, 429)


class SourceBusyError(HubError):
    """The source or the network failed in a way that may pass. `retry_after_seconds` is what it asks for, or None."""

    def __init__(self, message: str, *, hint: str | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class RangeRefusedError(SourceBusyError):
    """What was asked for was a file from some byte on, and the answer has no such thing: it can be had whole or not."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which bytes of a file an answer has: from `start` on, None when it does not say; the file has `whole_bytes`."""

    start: int | None
    whole_bytes: int | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is not what was asked for. `url` is who gave it, after all redirects; `headers` know no case."""

    status: int
    url: str
    headers: Mapping[str, str]


def refuse_compressed(headers: Mapping[str, str], source_url: str, what: str) -> None:
    """Raises HubError for an answer whose bytes are not the file's."""
    if headers.get("Content-Encoding", "identity") != "identity":
        raise HubError(
            f"{source_url} sends {what} compressed, though that was not asked for",
            hint="a proxy on the way may do that: NO_PROXY leads past it",
        )


def place_of(status: int, headers: Mapping[str, str], source_url: str, what: str) -> Place:
    """Where in the file an answer's body is. Raises HubError for an answer that has none of its bytes."""
    refuse_compressed(headers, source_url, what)
    if status == 206:
        found = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
        return Place(int(found[1]), int(found[2]) if found[2] else None) if found else Place(None, None)
    if status != 200:
        raise SourceBusyError(f"{source_url} answered {status} for {what}, which is no file")
    length = headers.get("Content-Length", "")
    return Place(0, int(length) if length.isascii() and length.isdigit() else None)


def is_passing(status: int) -> bool:
    """Whether the same request may be answered otherwise in a while."""
    return status in _BUSY or status >= 500


def passing_error(refusal: Refusal, source_url: str, what: str, hint: str) -> SourceBusyError | None:
    """The error for a refusal that may not come again, to be asked anew; None for one that will.

    `source_url` is who was asked for `what`; `hint` is about the way there.
    """
    host = led_to(refusal.url, source_url)
    seconds = seconds_to_wait(refusal.headers)
    if refusal.status == 416:
        return RangeRefusedError(f"{host or source_url} has no such part of {what} ({refusal.status})", hint=hint)
    if is_passing(refusal.status):
        said = f"{host or source_url} answered {refusal.status} for {what}"
        return SourceBusyError(said, hint="try again in a while", retry_after_seconds=seconds)
    if host:
        # No word of the source's: its links run out (some hosts say 400 or 404 then), and it gives others.
        return SourceBusyError(f"{host} refuses the link of {source_url} to {what} ({refusal.status})", hint=hint)
    return None


def network_error(error: Exception, source_url: str, hint: str) -> HubError:
    """The error for what an HTTP library raised while the source was asked, or whoever it led to.

    By the names of its errors: huggingface_hub brings another library than ours, with errors of the same names.
    """
    host, what = led_to(_asked_url(error) or source_url, source_url), str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in what:
        return HubError(f"{host or source_url} has a certificate that is not trusted here: {what}", hint=_TRUST)
    match type(error).__name__:
        case "TooManyRedirects":
            return HubError(f"{source_url} leads from one address to the next and never arrives", hint=hint)
        case "UnsupportedProtocol":
            return HubError(f"{source_url} leads to no address that could be asked: {what}", hint=hint)
    who = f"{host}, to which {source_url} leads," if host else source_url
    return SourceBusyError(f"{who} cannot be reached: {what}", hint=hint)


def trust_error(error: OSError) -> HubError:
    """The error for what keeps an HTTP library from reading whose certificates it is to trust."""
    what = error.strerror or str(error)
    return HubError(f"what SSL_CERT_FILE or SSL_CERT_DIR names cannot be read: {what}", hint=_TRUST)


def _asked_url(error: Exception) -> str:
    try:
        return str(error.request.url)  # type: ignore[attr-defined]  # of both libraries' errors
    except (AttributeError, RuntimeError):  # the latter where none was sent yet
        return ""


def led_to(url: str, source_url: str) -> str:
    """The host of `url` when it is not that of the source, which leads there; else ""."""
    return "" if _place(url) == _place(source_url) else urlsplit(url).netloc.rpartition("@")[2]


def _place(url: str) -> tuple[str | None, int | None]:
    # A host is the same with and without encryption.
    parts = urlsplit(url)
    return parts.hostname, None if parts.port in _DEFAULT_PORTS else parts.port


def seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """What an answer asks to wait, None when it asks for nothing: seconds, a date, or when the limit of a rate ends."""
    asked = headers.get("Retry-After", "")
    if asked.isascii() and asked.isdigit():
        return float(asked)
    if asked:
        return _seconds_between(headers.get("Date", ""), asked)
    ends = _WINDOW_ENDS.search(headers.get("RateLimit", ""))
    return float(ends[1]) if ends else None


def _seconds_between(sent: str, until: str) -> float | None:
    """By the clock of who wrote both; None when one is no date."""
    try:
        seconds = (parsedate_to_datetime(until) - parsedate_to_datetime(sent)).total_seconds()
    except (ValueError, TypeError):  # the latter for one date with a time zone and one without
        return None
    return max(0.0, seconds)
