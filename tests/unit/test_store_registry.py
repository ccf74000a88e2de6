"""How Ollama's registry is asked, against a network of a few lines: tokens, redirects, answers that are none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from localllm.errors import HubAccessError, HubError, NotOnHubError
from localllm.store.answers import Place, RangeRefusedError, SourceBusyError, network_error, place_of
from localllm.store.registry import Registry
from localllm.store.repository import HubFile, Repository

DATA = b"weights"
OID = hashlib.sha256(DATA).hexdigest()
FILE = HubFile("tiny:latest", len(DATA), OID)
REPOSITORY = Repository("library/tiny", "c" * 64, (FILE,))
MANIFEST = {
    "layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{OID}", "size": len(DATA)}]
}
URL = "https://registry.test"
Answer = Callable[[httpx.Request], httpx.Response]


def registry(answer: Answer, folder: Path = Path("/nowhere"), url: str = URL) -> Registry:
    return Registry(url, folder, httpx.MockTransport(answer))


def sent(data: bytes) -> Iterator[bytes]:
    """A body that arrives, as bodies do: httpx has read one of plain bytes before anybody asks."""
    yield data


def fetched(answer: Answer) -> tuple[int | None, bytes]:
    """Where the registry's file starts and what it holds."""
    with registry(answer) as asked, asked.open(REPOSITORY, FILE, 3, 1024) as opened:
        return opened.place.start, b"".join(opened.pieces)


def test_a_file_is_asked_for_by_its_digest_from_the_byte_that_is_missing():
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(206, headers={"Content-Range": "bytes 3-6/7"}, content=sent(DATA[3:]))

    assert (3, DATA[3:]) == fetched(answer)
    assert f"{URL}/v2/library/tiny/blobs/sha256:{OID}" == str(seen[0].url)
    assert ("bytes=3-", "identity") == (seen[0].headers["Range"], seen[0].headers["Accept-Encoding"])


def test_a_server_that_ignores_the_range_is_noticed():
    assert (0, DATA) == fetched(lambda request: httpx.Response(200, content=sent(DATA)))


def test_a_token_goes_to_the_registry_and_not_where_it_redirects_to():
    seen: list[tuple[str, str | None]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        token = request.headers.get("Authorization")
        seen.append((request.url.host + request.url.path.partition("/blobs")[0], token))
        if request.url.host == "cdn.test":
            return httpx.Response(200, content=sent(DATA))
        if request.url.path == "/token":
            assert {"service": "r", "scope": "repository:library/tiny:pull"} == dict(request.url.params)
            return httpx.Response(200, content=sent(b'{"access_token": "secret"}'))
        if token is None:
            challenge = f'Bearer realm="{URL}/token",service="r",scope="repository:library/tiny:pull"'
            return httpx.Response(401, headers={"WWW-Authenticate": challenge})
        return httpx.Response(307, headers={"Location": "https://cdn.test/x?signature=y"})

    assert (0, DATA) == fetched(answer)
    assert [
        ("registry.test/v2/library/tiny", None),
        ("registry.test/token", None),
        ("registry.test/v2/library/tiny", "Bearer secret"),
        ("cdn.test/x", None),
    ] == seen


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer realm="https://evil.test/token",service="r"',
        'Bearer realm="http://registry.test/token",service="r"',
        'Basic realm="https://registry.test/token"',
        "Bearer",
    ],
)
def test_a_login_elsewhere_or_of_another_kind_is_not_followed(challenge):
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(401, headers={"WWW-Authenticate": challenge})

    with pytest.raises(HubError, match="asks for a login in a way that is not followed"):
        fetched(answer)
    assert ["registry.test"] == asked


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"token": 5}', b'{"token": "a\\nb"}', b'{"token": "\xc3\xa9"}'])
def test_a_token_that_is_none_is_not_sent(body):
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            return httpx.Response(200, content=sent(body))
        return httpx.Response(401, headers={"WWW-Authenticate": f'Bearer realm="{URL}/token"'})

    with pytest.raises(HubError, match="token"):
        fetched(answer)


def test_what_is_refused_with_a_token_too_is_private():
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            return httpx.Response(200, content=sent(b'{"token": "anonymous"}'))
        return httpx.Response(401, headers={"WWW-Authenticate": f'Bearer realm="{URL}/token"'})

    with pytest.raises(HubAccessError) as caught:
        fetched(answer)
    assert "public models only" in caught.value.hint


def test_a_redirect_to_an_unencrypted_address_or_in_a_circle_is_not_followed():
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(302, headers={"Location": "http://169.254.169.254/latest/meta-data"})

    with pytest.raises(HubError, match=r"leads to 169.254.169.254 without encryption"):
        fetched(answer)
    assert 1 == len(asked)
    with pytest.raises(HubError, match="never arrives"):
        fetched(lambda request: httpx.Response(302, headers={"Location": f"{URL}/again"}))


@pytest.mark.parametrize(
    ("answered", "error", "seconds"),
    [
        (httpx.Response(429, headers={"Retry-After": "7"}), SourceBusyError, 7),
        (httpx.Response(429, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), SourceBusyError, None),
        (
            httpx.Response(
                429, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}
            ),
            SourceBusyError,
            30,
        ),
        (httpx.Response(429, headers={"RateLimit": '"resolvers";r=0;t=55'}), SourceBusyError, 55),
        (httpx.Response(429, headers={"Retry-After": "soon", "Date": "now"}), SourceBusyError, None),
        (httpx.Response(503), SourceBusyError, None),
        (httpx.Response(408), SourceBusyError, None),
        (httpx.Response(404), NotOnHubError, None),
        (httpx.Response(403), HubAccessError, None),
        (httpx.Response(418), HubError, None),
        (httpx.Response(204), SourceBusyError, None),
        (httpx.Response(416), RangeRefusedError, None),
        (httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=sent(b"")), HubError, None),
    ],
)
def test_what_may_pass_is_told_from_what_will_not(answered, error, seconds):
    with pytest.raises(HubError if error is not NotOnHubError else NotOnHubError) as caught:
        fetched(lambda request: answered)
    assert error is type(caught.value)
    assert seconds == getattr(caught.value, "retry_after_seconds", None)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_host_that_the_registry_leads_to_does_not_speak_for_it(status):
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "cdn.test":
            return httpx.Response(status)
        return httpx.Response(307, headers={"Location": "https://cdn.test/x?signature=y"})

    with pytest.raises(SourceBusyError, match=rf"cdn.test refuses the link of {URL} to tiny:latest \({status}\)"):
        fetched(answer)


def test_the_registry_speaks_for_itself_at_its_port_in_either_scheme():
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.scheme == "http":
            return httpx.Response(308, headers={"Location": "https://registry.test/x"})
        return httpx.Response(403)

    with (
        registry(answer, url="http://registry.test:80") as asked,
        pytest.raises(HubAccessError),
        asked.open(REPOSITORY, FILE, 0, 1024),
    ):
        pass


def test_who_cannot_be_reached_is_named_when_the_registry_led_there():
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "cdn.test":
            raise httpx.ConnectError("no route", request=request)
        return httpx.Response(307, headers={"Location": "https://cdn.test/x?signature=y"})

    with pytest.raises(SourceBusyError, match=rf"^cdn.test, to which {URL} leads, cannot be reached: no route$"):
        fetched(answer)


def test_a_certificate_that_is_not_trusted_does_not_pass():
    text = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate"
    error = network_error(httpx.ConnectError(text), URL, "a hint")
    assert (HubError, f"{URL} has a certificate that is not trusted here: {text}") == (type(error), error.message)
    assert "SSL_CERT_FILE" in (error.hint or "")


def test_an_address_that_no_one_could_ask_is_told_at_once():
    error = network_error(httpx.UnsupportedProtocol("ftp"), URL, "a hint")
    assert (HubError, f"{URL} leads to no address that could be asked: ftp") == (type(error), error.message)


@pytest.mark.parametrize(
    ("content_range", "place"),
    [
        ("bytes 3-6/7", Place(3, 7)),
        ("Bytes 3-6/*", Place(3, None)),
        ("bytes */7", Place(None, None)),
        ("items 3-6/7", Place(None, None)),
        ("", Place(None, None)),
        (f"bytes {'9' * 30}-6/7", Place(None, None)),
    ],
)
def test_which_bytes_an_answer_has_is_read_or_not_known(content_range, place):
    assert place == place_of(206, httpx.Headers({"Content-Range": content_range}), URL, "a file")


def test_a_connection_that_fails_may_pass_also_in_the_middle_of_a_file():
    def broken():
        yield DATA[:3]
        raise httpx.ReadError("reset by peer")

    with pytest.raises(SourceBusyError, match="reset by peer"):
        fetched(lambda request: httpx.Response(200, content=broken()))


def test_a_manifest_says_which_files_make_the_model_and_its_digest_is_the_commit():
    data = json.dumps(MANIFEST).encode()
    with registry(lambda request: httpx.Response(200, content=sent(data))) as asked:
        image = asked.look_up("library/tiny", "latest")
    assert (FILE,) == image.files
    assert hashlib.sha256(data).hexdigest() == image.repository.commit


def test_a_manifest_without_an_end_is_given_up():
    def endless():
        while True:
            yield b" " * 2**16

    with (
        registry(lambda request: httpx.Response(200, content=endless())) as asked,
        pytest.raises(HubError, match="is larger than 1048576 bytes"),
    ):
        asked.look_up("library/tiny", "latest")


def test_a_blob_is_there_when_it_has_its_size_whoever_brought_it(tmp_path):
    with registry(lambda request: httpx.Response(500), tmp_path) as asked:
        assert asked.find(REPOSITORY, FILE) is None
        (tmp_path / f"sha256-{OID}").write_bytes(DATA[:-1])
        assert asked.find(REPOSITORY, FILE) is None
        (tmp_path / f"sha256-{OID}").write_bytes(DATA)
        assert tmp_path / f"sha256-{OID}" == asked.find(REPOSITORY, FILE)


def test_only_one_process_at_a_time_has_a_blobs_lock(tmp_path):
    with registry(lambda request: httpx.Response(500), tmp_path) as asked:
        with asked.lock(REPOSITORY, FILE, None), pytest.raises(TimeoutError), asked.lock(REPOSITORY, FILE, 0.01):
            pass
        with asked.lock(REPOSITORY, FILE, 0.01):
            pass
