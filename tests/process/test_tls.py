"""https by files: the daemon serves it, its commands follow, and a wrong file is told before anything starts."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from cli_process import cli_environment, run_cli
from daemon_process import running_daemon

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl, which makes the certificates, is not installed"
)


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """cert.pem and key.pem for box.example, signed by itself; both in one as whole.pem; another's other.pem."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("", "other-"):
        openssl(
            folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", "/CN=box.example", "-addext", "subjectAltName=DNS:box.example",
            "-keyout", f"{name}key.pem", "-out", f"{name}cert.pem",
        )  # fmt: skip
    (folder / "whole.pem").write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    openssl(folder, "ec", "-in", "key.pem", "-aes256", "-passout", "pass:secret", "-out", "locked.pem")
    (folder / "words.pem").write_text("not a certificate\n")
    return folder


@pytest.fixture(scope="module")
def daemon(files, tmp_path_factory):
    home = tmp_path_factory.mktemp("tls") / "home"
    variables = {"LOCALLLM_TLS_CERT": str(files / "cert.pem"), "LOCALLLM_TLS_KEY": str(files / "key.pem")}
    with running_daemon(home, **variables) as running:
        assert running.url.startswith("https://127.0.0.1:")
        yield running


def trusting(files: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=files / "cert.pem")
    context.check_hostname = False
    return context


def test_a_client_that_trusts_the_certificate_is_served_and_another_is_not(daemon, files):
    with httpx.Client(base_url=daemon.url, verify=trusting(files), trust_env=False) as client:
        answer = client.get("/api/version")
        assert (200, "1.1") == (answer.status_code, answer.http_version.removeprefix("HTTP/"))
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{daemon.url}/api/version", trust_env=False)


def test_old_versions_of_tls_and_plain_http_get_nothing(daemon):
    host, port = daemon.url.removeprefix("https://").split(":")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection((host, int(port)), timeout=10) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{host}:{port}/api/version", trust_env=False)


def test_the_commands_on_its_own_machine_trust_its_very_certificate(daemon):
    environment = {**daemon.environment, "LOCALLLM_HOST": daemon.url.removeprefix("https://")}
    result = run_cli("run", "guide", "How do I pull a model?", environment=environment, seconds=60)
    assert (0, True) == (result.returncode, "localllm pull" in result.stdout), result.stderr


def test_a_command_elsewhere_needs_to_know_whom_to_trust(daemon, files, tmp_path):
    def listed(**variables: str):
        return run_cli("list", environment=cli_environment(tmp_path, daemon.url, **variables))

    refused = listed()
    assert 1 == refused.returncode
    assert f"the certificate of {daemon.url} is not trusted" in refused.stderr
    assert "hint: LOCALLLM_TLS_CA names a file" in refused.stderr
    stranger = listed(LOCALLLM_TLS_CA=str(files / "other-cert.pem"))
    assert (1, True) == (stranger.returncode, "is not trusted" in stranger.stderr)
    # It is box.example's, and this is not that name.
    other_name = listed(LOCALLLM_TLS_CA=str(files / "cert.pem"))
    assert (1, True) == (other_name.returncode, "is not trusted" in other_name.stderr)


def test_a_key_may_stand_in_the_certificates_file(files, tmp_path):
    with (
        running_daemon(tmp_path, LOCALLLM_TLS_CERT=str(files / "whole.pem")) as running,
        httpx.Client(base_url=running.url, verify=trusting(files), trust_env=False) as client,
    ):
        assert 200 == client.get("/health").status_code


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("missing.pem", "key.pem", "LOCALLLM_TLS_CERT: {folder}/missing.pem cannot be read: No such file or directory"),
        ("cert.pem", "missing.pem", "LOCALLLM_TLS_KEY: {folder}/missing.pem cannot be read: No such file or directory"),
        ("cert.pem", "other-key.pem", "LOCALLLM_TLS_CERT and its key cannot be used: key values mismatch"),
        ("words.pem", "key.pem", "LOCALLLM_TLS_CERT and its key cannot be used: "),
        ("cert.pem", "locked.pem", "LOCALLLM_TLS_CERT and its key cannot be used: "),
        ("", "key.pem", "LOCALLLM_TLS_KEY is set, but LOCALLLM_TLS_CERT is not"),
    ],
)
def test_files_that_are_wrong_are_told_before_anything_starts(files, tmp_path, certificate, key, message):
    variables = {"LOCALLLM_TLS_KEY": str(files / key)}
    if certificate:
        variables["LOCALLLM_TLS_CERT"] = str(files / certificate)
    result = run_cli("serve", environment=cli_environment(tmp_path, "127.0.0.1:0", **variables))
    assert 1 == result.returncode
    assert f"Error: {message.format(folder=files)}" in result.stderr


def test_https_without_a_certificate_is_told(tmp_path):
    result = run_cli("serve", environment=cli_environment(tmp_path, "https://127.0.0.1:0"))
    assert (1, True) == (
        result.returncode,
        "LOCALLLM_HOST asks for https, but there is no certificate" in result.stderr,
    )


def test_a_port_that_a_daemon_with_tls_holds_is_told_with_its_name(daemon, files, tmp_path):
    place = daemon.url.removeprefix("https://")
    variables = {"LOCALLLM_TLS_CERT": str(files / "whole.pem")}
    result = run_cli("serve", environment=cli_environment(tmp_path, place, **variables))
    assert f"Error: {place} is already used by another localllm" in result.stderr


def test_a_daemon_without_tls_is_not_taken_for_an_absent_one(tmp_path):
    with running_daemon(tmp_path / "plain") as running:
        address = running.url.replace("http://", "https://")
        result = run_cli("list", environment=cli_environment(tmp_path / "other", address))
    assert (1, True) == (result.returncode, "does not speak https" in result.stderr), result.stderr
