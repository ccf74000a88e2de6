"""TLS by files: the daemon's certificate and key, and whom the commands trust.

    serving   LOCALLLM_TLS_CERT, and LOCALLLM_TLS_KEY unless the certificate's file holds the key too
    asking    LOCALLLM_TLS_CA, else what the system trusts. On a machine whose own settings name a certificate that
              very certificate is trusted under any name: a daemon at 127.0.0.1 need not have that in its certificate

Reads files and makes contexts; opens no connection.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from localllm.errors import ConfigError


def server_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """What a daemon serves https with. Raises ConfigError that names the file at fault."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    _check_readable(certificate, "LOCALLLM_TLS_CERT")
    if key is not None:
        _check_readable(key, "LOCALLLM_TLS_KEY")
    try:
        # A daemon has nobody to ask for a passphrase, and OpenSSL would ask the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"LOCALLLM_TLS_CERT and its key cannot be used: {_reason(error)}",
            hint="both are PEM files, the key belongs to the certificate and has no passphrase",
        ) from error
    return context


def client_context(authorities: Path | None, own_certificate: Path | None) -> ssl.SSLContext:
    """Whom a command trusts. Raises ConfigError that names the file at fault."""
    trusted, variable = (authorities, "LOCALLLM_TLS_CA") if authorities else (own_certificate, "LOCALLLM_TLS_CERT")
    if trusted is None:
        return ssl.create_default_context()
    _check_readable(trusted, variable)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(trusted)
    except ssl.SSLError as error:
        raise ConfigError(f"{variable}: {trusted} holds no certificate: {_reason(error)}") from error
    if authorities is None:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it may be signed by somebody who is not in the file
        context.check_hostname = False
    return context


def _check_readable(path: Path, variable: str) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{variable}: {path} cannot be read: {error.strerror}") from error


def _reason(error: Exception) -> str:
    return (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
