"""The way to the hub and to the registry: proxies and exceptions, mirrors, no network, a folder nobody may write."""

from __future__ import annotations

import time

import pytest
from daemon_process import running_daemon
from hub_server import Fault, HubRepo, hub_server
from proxy_server import proxy_server
from pulls import GUIDE, LARGE, SUCCESS, names, pull
from registry_server import RegistryModel, registry_server

NAME = "hf.co/owner/Tiny-GGUF"
REPOSITORIES = {"owner/Tiny-GGUF": HubRepo({"Tiny-Q4_K_M.gguf": GUIDE})}
NOBODY = "http://127.0.0.1:9"


def test_a_proxy_is_the_way_to_the_hub_and_to_its_cdn(tmp_path):
    with (
        hub_server(REPOSITORIES) as hub,
        proxy_server({"hub.test": hub.url}) as proxy,
        running_daemon(
            tmp_path, HF_ENDPOINT="http://hub.test", HF_HOME=str(tmp_path / "hf"), HTTP_PROXY=proxy.url
        ) as daemon,
    ):
        assert SUCCESS == pull(daemon, NAME)[-1]
        assert "GET http://hub.test/api/models/owner/Tiny-GGUF" in proxy.seen
        assert f"GET {hub.cdn_url}/owner/Tiny-GGUF/Tiny-Q4_K_M.gguf" in proxy.seen


def test_a_proxy_is_the_way_to_the_registry(tmp_path):
    with (
        registry_server({"library/tiny:latest": RegistryModel(model=GUIDE)}) as registry,
        proxy_server({"registry.test": registry.url}) as proxy,
        running_daemon(tmp_path, LOCALLLM_REGISTRY="http://registry.test", HTTP_PROXY=proxy.url) as daemon,
    ):
        assert SUCCESS == pull(daemon, "ollama.com/library/tiny")[-1]
        assert "GET http://registry.test/v2/library/tiny/manifests/latest" == proxy.seen[0]


def test_no_proxy_names_hosts_that_are_reached_without_it(tmp_path):
    with (
        hub_server(REPOSITORIES) as hub,
        registry_server({"library/tiny:latest": RegistryModel(model=GUIDE)}) as registry,
        running_daemon(
            tmp_path,
            HF_ENDPOINT=hub.url,
            HF_HOME=str(tmp_path / "hf"),
            LOCALLLM_REGISTRY=registry.url,
            HTTP_PROXY=NOBODY,
            NO_PROXY="127.0.0.1",
        ) as daemon,
    ):
        assert SUCCESS == pull(daemon, NAME)[-1]
        assert SUCCESS == pull(daemon, "ollama.com/library/tiny")[-1]


@pytest.mark.parametrize("name", [NAME, "ollama.com/library/tiny"])
def test_encrypted_requests_go_through_their_own_proxy_and_what_it_refuses_is_said(tmp_path, name):
    with (
        proxy_server({}) as proxy,
        running_daemon(
            tmp_path,
            HF_ENDPOINT="https://hub.test",
            HF_HOME=str(tmp_path / "hf"),
            LOCALLLM_REGISTRY="https://hub.test",
            HTTPS_PROXY=proxy.url,
        ) as daemon,
    ):
        last = pull(daemon, name)[-1]
        assert {"CONNECT hub.test:443"} == set(proxy.seen)
        assert last["error"].startswith("https://hub.test cannot be reached: 502")
        assert "and the proxy" in last["hint"]


@pytest.mark.parametrize("name", [NAME, "ollama.com/library/tiny"])
def test_certificates_that_cannot_be_read_are_told_by_the_variable_that_names_them(tmp_path, name):
    with running_daemon(tmp_path, HF_HOME=str(tmp_path / "hf"), SSL_CERT_FILE="/nowhere.pem", NO_PROXY="*") as daemon:
        last = pull(daemon, name)[-1]
        said = "what SSL_CERT_FILE or SSL_CERT_DIR names cannot be read: No such file or directory"
        assert said == last["error"]
        assert "start the daemon again" in last["hint"]


def test_a_mirror_is_asked_instead_of_the_hub_whatever_the_spelling_of_the_name(tmp_path):
    with (
        hub_server(REPOSITORIES) as mirror,
        running_daemon(tmp_path, HF_ENDPOINT=f"{mirror.url}/", HF_HOME=str(tmp_path / "hf"), NO_PROXY="*") as daemon,
    ):
        assert SUCCESS == pull(daemon, "https://huggingface.co/owner/Tiny-GGUF")[-1]
        assert [f"{NAME}:latest"] == names(daemon)


def test_without_a_network_the_hub_is_given_up_soon_and_what_to_check_is_said(tmp_path):
    with running_daemon(tmp_path, HF_ENDPOINT=NOBODY, HF_HOME=str(tmp_path / "hf"), NO_PROXY="*") as daemon:
        last = pull(daemon, NAME)[-1]
        assert last["error"].startswith(f"{NOBODY} cannot be reached")
        assert "check the network, HF_ENDPOINT and the proxy" in last["hint"]
        assert 502 == daemon.http.post("/api/pull", json={"model": NAME, "stream": False}).status_code


def test_a_cache_that_cannot_be_written_is_named_with_the_variable_that_moves_it(tmp_path):
    blocked = tmp_path / "hf"
    blocked.mkdir()
    (blocked / "hub").write_text("a file where the folder should be: not even root can write there")
    with (
        hub_server(REPOSITORIES) as hub,
        running_daemon(tmp_path, HF_ENDPOINT=hub.url, HF_HOME=str(blocked), NO_PROXY="*") as daemon,
    ):
        last = pull(daemon, NAME)[-1]
        assert last["error"].startswith(f"the folder {blocked / 'hub'} cannot be written")
        assert "set HF_HOME to another folder" in last["hint"]
        assert 0 == hub.served_bytes()


def test_a_models_folder_that_cannot_be_written_is_told_before_the_first_byte(tmp_path):
    blocked = tmp_path / "models"
    with (
        hub_server(REPOSITORIES) as hub,
        running_daemon(tmp_path, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf"), NO_PROXY="*") as daemon,
    ):
        blocked.mkdir(exist_ok=True)
        (blocked / "localllm").write_text("a file where the folder should be: not even root can write there")
        last = pull(daemon, NAME)[-1]
        assert "cannot be written: Not a directory" in last["error"]
        assert "point LOCALLLM_MODELS at another folder" in last["hint"]
        assert 0 == hub.served_bytes()
        (blocked / "localllm").unlink()
        assert SUCCESS == pull(daemon, NAME)[-1]


def test_a_hub_that_names_files_outside_the_repository_is_not_followed(tmp_path):
    paths = ("../../../etc/x-Q4_K_M.gguf", "/etc/x.gguf", "a/./x.gguf", "a\\x.gguf", "C:/x.gguf", "a//x.gguf")
    repositories = {
        f"owner/Bad-{number}": HubRepo({"Tiny-Q4_K_M.gguf": GUIDE}, extra_paths=(path,))
        for number, path in enumerate(paths)
    }
    with (
        hub_server(repositories) as hub,
        running_daemon(tmp_path, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf"), NO_PROXY="*") as daemon,
    ):
        for number, path in enumerate(paths):
            assert f"a path that cannot be: {path!a}" in pull(daemon, f"hf.co/owner/Bad-{number}")[-1]["error"]
        assert 0 == hub.served_bytes()


def test_a_trickle_from_the_hub_is_waited_for(tmp_path):
    slow = HubRepo({"Tiny-Q4_K_M.gguf": GUIDE}, bytes_per_second=1_000_000, piece_bytes=997)
    with (
        hub_server({"owner/Tiny-GGUF": slow}) as hub,
        running_daemon(tmp_path, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf"), NO_PROXY="*") as daemon,
    ):
        started = time.monotonic()
        assert SUCCESS == pull(daemon, NAME)[-1]
        assert time.monotonic() - started > 2


def test_pages_in_the_way_and_a_cdn_that_has_no_parts_are_got_over(tmp_path):
    page = Fault(status=200, page=b"<html>Your connection is being checked</html>")
    faults = {"Tiny-Q8_0.gguf": [page, Fault(reset_after_bytes=5_000_000), page, Fault(status=204), Fault(status=416)]}
    with (
        hub_server({"owner/Tiny-GGUF": HubRepo({"Tiny-Q8_0.gguf": LARGE}, faults=faults)}) as hub,
        running_daemon(tmp_path, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf"), NO_PROXY="*") as daemon,
    ):
        assert SUCCESS == pull(daemon, NAME)[-1]
        assert {"Tiny-Q8_0.gguf": []} == faults
        assert hub.served_bytes() < len(LARGE) + 5_000_000 + 2**20


def test_a_link_to_the_cdn_that_has_run_out_is_asked_for_again(tmp_path):
    faults = {"tiny-Q4_K_M.gguf": [Fault(status=403), Fault(reset_after_bytes=100_000), Fault(status=401)]}
    with (
        hub_server({"owner/Tiny-GGUF": HubRepo({"tiny-Q4_K_M.gguf": GUIDE}, faults=faults)}) as hub,
        running_daemon(tmp_path, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf"), NO_PROXY="*") as daemon,
    ):
        assert SUCCESS == pull(daemon, NAME)[-1]
        assert {"tiny-Q4_K_M.gguf": []} == faults
