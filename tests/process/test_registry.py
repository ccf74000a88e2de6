"""Pulls from Ollama's registry as people make them: the real CLI and daemon, an OCI registry on loopback."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import httpx
import pytest
from adapters import write_adapter
from cli_process import run_cli
from daemon_process import Daemon, lines_of, running_daemon, wait_for
from hub_server import Fault, Pace
from pulls import GUIDE, LARGE, SUCCESS, names, partial_bytes, projector_bytes, pull
from registry_server import RegistryModel, RegistryServer, digest, registry_server

NAME = "ollama.com/library/tiny"
GUIDE_FILE = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"
LARGE_NAME = f"{NAME}:large"
GO_TEMPLATE = "{{ if .System }}<|system|>{{ .System }}{{ end }}<|user|>{{ .Prompt }}<|assistant|>"


def blobs(home: Path) -> Path:
    return home / "models" / "localllm" / "blobs"


@contextmanager
def daemon_and_registry(
    home: Path, *, needs_token: bool = False, **models: RegistryModel
) -> Iterator[tuple[Daemon, RegistryServer]]:
    """A daemon whose registry has library/tiny under the tags that `models` names."""
    with (
        registry_server(
            {f"library/tiny:{tag}": model for tag, model in models.items()}, needs_token=needs_token
        ) as registry,
        running_daemon(home, **variables(registry)) as daemon,
    ):
        yield daemon, registry


def variables(registry: RegistryServer) -> dict[str, str]:
    return {"LOCALLLM_REGISTRY": registry.url, "NO_PROXY": "*"}


def test_a_model_comes_with_its_settings_answers_and_is_not_downloaded_again(tmp_path):
    tiny = RegistryModel(
        model=GUIDE,
        system="Be brief.",
        params={"stop": ["<|end|>"], "temperature": 0, "num_ctx": 512, "mirostat_shape": 3},
        messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
        licenses=("\nMIT License\nMore words", "And more"),
    )
    with daemon_and_registry(tmp_path, latest=tiny) as (daemon, registry):
        lines = pull(daemon, NAME)
        assert "pulling manifest" == lines[0]["status"]
        assert [{"status": "the parameter mirostat_shape has no effect here"}, {"status": "license: MIT License"}] == (
            lines[1:3]
        )
        whole = {"digest": digest(GUIDE), "total": len(GUIDE), "completed": len(GUIDE), "file": "tiny:latest"}
        assert {"status": f"pulling {digest(GUIDE)[7:19]}", **whole} in lines
        words = ["verifying sha256 digest", "writing manifest", "success"]
        assert words == [line["status"] for line in lines[-3:]]
        assert [f"{NAME}:latest"] == names(daemon)
        shown = daemon.http.post("/api/show", json={"model": NAME}).json()
        assert ("Be brief.", "\nMIT License\nMore words\n\nAnd more") == (shown["system"], shown["license"])
        assert [("user", "hi"), ("assistant", "hello")] == [(m["role"], m["content"]) for m in shown["messages"]]
        parameters = dict(line.split(maxsplit=1) for line in shown["parameters"].splitlines())
        assert {"stop": '"<|end|>"', "temperature": "0", "num_ctx": "512"} == parameters
        question = {"stream": False, "messages": [{"role": "user", "content": "How do I pull a model?"}]}
        answer = daemon.http.post("/api/chat", json={"model": NAME, **question}).json()
        assert "pull" in answer["message"]["content"]
        assert SUCCESS == pull(daemon, "https://registry.ollama.ai/library/tiny:latest")[-1]
        assert len(GUIDE) == registry.served[digest(GUIDE)]
        assert (blobs(tmp_path) / f"sha256-{digest(GUIDE)[7:]}").read_bytes() == GUIDE
        assert json.loads(next(tmp_path.rglob("registry/**/latest.json")).read_text())["source"].startswith(f"{NAME}@")
        assert 200 == daemon.http.request("DELETE", "/api/delete", json={"model": NAME}).status_code
        assert [] == names(daemon)
        assert not list(blobs(tmp_path).glob("sha256-*"))


def test_a_projector_is_kept_and_shown_and_nothing_claims_that_the_model_sees(tmp_path):
    seeing = RegistryModel(model=GUIDE, more=(("projector", projector_bytes()),))
    with daemon_and_registry(tmp_path, latest=seeing) as (daemon, _):
        lines = pull(daemon, NAME)
        assert {"status": "with its projector, which is kept: this version reads no images yet"} in lines
        assert SUCCESS == lines[-1]
        shown = daemon.http.post("/api/show", json={"model": NAME}).json()
        assert (False, "gemma3") == (shown["projector"]["is_used"], shown["projector"]["info"]["clip.projector_type"])
        assert "vision" not in shown["capabilities"]
        daemon.http.request("DELETE", "/api/delete", json={"model": NAME})
        assert not list(blobs(tmp_path).glob("sha256-*"))


def test_an_adapter_comes_along_changes_the_answer_and_goes_with_the_name(tmp_path):
    path = write_adapter(tmp_path / "lora.gguf", GUIDE_FILE, spread=0.2)
    tuned = RegistryModel(model=GUIDE, more=(("adapter", path.read_bytes()),))
    with daemon_and_registry(tmp_path, latest=tuned, plain=RegistryModel(model=GUIDE)) as (daemon, _):
        assert SUCCESS == pull(daemon, NAME)[-1] == pull(daemon, f"{NAME}:plain")[-1]
        assert 2 == len(list(blobs(tmp_path).glob("sha256-*")))
        (shown,) = daemon.http.post("/api/show", json={"model": NAME}).json()["adapters"]
        assert (path.stat().st_size, 4) == (shown["size"], shown["rank"])
        body = {"prompt": "How do I pull a model?", "stream": False, "options": {"temperature": 0, "num_predict": 16}}
        answers = [
            daemon.http.post("/api/generate", json={"model": name, **body}).json()["response"]
            for name in (NAME, f"{NAME}:plain")
        ]
        assert answers[0] != answers[1]
        daemon.http.request("DELETE", "/api/delete", json={"model": NAME})
        assert [f"sha256-{digest(GUIDE)[7:]}"] == [blob.name for blob in blobs(tmp_path).glob("sha256-*")]


def test_the_longest_texts_come_through_whole(tmp_path):
    long = RegistryModel(model=GUIDE, system="\x01" * (2**20 - 10), licenses=("0123456789",))
    with daemon_and_registry(tmp_path, latest=long) as (daemon, _):
        assert SUCCESS == pull(daemon, NAME)[-1]
        assert long.system == daemon.http.post("/api/show", json={"model": NAME}).json()["system"]


def test_a_template_in_go_is_kept_as_it_is(tmp_path):
    with daemon_and_registry(tmp_path, latest=RegistryModel(model=GUIDE, template=GO_TEMPLATE)) as (daemon, _):
        assert SUCCESS == pull(daemon, "ollama.com/tiny")[-1]
        assert GO_TEMPLATE == daemon.http.post("/api/show", json={"model": NAME}).json()["template"]


BAD_MODELS = {
    "tensors": RegistryModel(more=(("tensor", b"x"), ("tensor", b"y"))),
    "cloud": RegistryModel(licenses=("MIT",)),
    "adapter": RegistryModel(model=GUIDE, more=(("adapter", GUIDE),)),
    "wrong": RegistryModel(model=GUIDE, claimed={"model": f"sha256:{'ab' * 32}"}),
    "wrongtext": RegistryModel(model=GUIDE, system="x", claimed={"system": f"sha256:{'cd' * 32}"}),
    "page": RegistryModel(model=b"<html>" * 100),
    "broken": RegistryModel(manifest=b"{"),
    "index": RegistryModel(manifest=b'{"schemaVersion": 2, "manifests": [{"digest": "sha256:ab"}]}'),
    "errors": RegistryModel(manifest=b'{"errors": [{"code": "UNKNOWN"}]}'),
    "traversal": RegistryModel(model=GUIDE, claimed={"model": "sha256:../../../../etc/passwd"}),
    "huge": RegistryModel(model=GUIDE, system="x" * (2**20 + 1)),
    "latin": RegistryModel(model=GUIDE, more=(("system", b"\xff\xfe\xfd"),)),
    "params": RegistryModel(model=GUIDE, params={"temperature": "hot"}),
    "noparams": RegistryModel(model=GUIDE, params="[1]"),
    "roles": RegistryModel(model=GUIDE, messages=[{"role": "king", "content": "x"}]),
    "eye": RegistryModel(model=GUIDE, more=(("projector", GUIDE[:-1]),)),
}


@pytest.fixture(scope="module")
def bad_registry(tmp_path_factory):
    with daemon_and_registry(tmp_path_factory.mktemp("bad"), **BAD_MODELS) as running:
        yield running


@pytest.mark.parametrize(
    ("tag", "error", "hint"),
    [
        ("nowhere", "library/tiny:nowhere is not on http://127.0.0.1", "check the name and the tag"),
        ("tensors", "library/tiny:tensors is not a GGUF model", "choose another tag"),
        ("cloud", "library/tiny:cloud holds no model", "choose another tag"),
        ("adapter", "is no adapter: its general.type is 'model'", "names a LoRA adapter"),
        ("wrong", "tiny:wrong was downloaded, but its hash is", "pull it again"),
        ("wrongtext", "the registry sends another system of library/tiny than its digest says", "pull it again"),
        ("page", "is not a GGUF file: it starts with '<htm'", "was a web page"),
        ("broken", "the registry's manifest of library/tiny:broken cannot be read", "no page asks for a login"),
        ("index", "the registry has several manifests of library/tiny:index", "choose another tag"),
        ("errors", "the registry's manifest of library/tiny:errors names no layers", "LOCALLLM_REGISTRY"),
        ("traversal", "has a layer that cannot be: 'sha256:../../../../etc/passwd'", None),
        ("huge", "the texts of library/tiny:huge have 1048577 bytes together, and 1048576 is the limit", None),
        ("latin", "the system of the model is not UTF-8 text", None),
        ("params", 'the parameters of the model cannot be used: option "temperature" must be', None),
        ("noparams", "the parameters of the model cannot be used: Expected `object`", None),
        ("roles", "the messages of the model cannot be used", None),
        ("eye", "truncated", "fetch the file again"),
    ],
)
def test_what_cannot_be_pulled_leaves_no_name_and_says_why(bad_registry, tag, error, hint):
    daemon, _ = bad_registry
    last = pull(daemon, f"{NAME}:{tag}")[-1]
    assert error in last["error"]
    assert (hint or "") in last.get("hint", "")
    assert [] == names(daemon)
    assert daemon.http.post("/api/pull", json={"model": f"{NAME}:{tag}", "stream": False}).status_code >= 400


def test_no_name_makes_the_daemon_ask_another_address(bad_registry):
    daemon, registry = bad_registry
    asked = len(registry.requests)
    host = registry.url.removeprefix("http://")
    for name in (f"{host}/library/tiny", f"https://{host}/library/tiny", f"http://{host}/a/b", f"user@{host}/a/b"):
        assert daemon.http.post("/api/pull", json={"model": name}).status_code in (400, 404), name
    assert asked == len(registry.requests)


def test_a_quant_of_the_registry_is_a_tag(bad_registry):
    answer = bad_registry[0].http.post("/api/pull", json={"model": NAME, "quant": "Q8_0"})
    assert (400, f"the quant of '{NAME}:latest' is part of its tag") == (answer.status_code, answer.json()["error"])


def test_a_connection_that_breaks_and_a_busy_registry_are_tried_again_where_it_stopped(tmp_path):
    faults = [Fault(reset_after_bytes=5_000_000), Fault(status=429, retry_after="1"), Fault(status=503),
              Fault(reset_after_bytes=4_000_000), Fault(ignores_range=True, reset_after_bytes=1_000_000)]  # fmt: skip
    broken = RegistryModel(model=LARGE, faults=faults, manifest_faults=[500, 429])
    with daemon_and_registry(tmp_path, large=broken) as (daemon, registry):
        assert SUCCESS == pull(daemon, LARGE_NAME)[-1]
        assert ([], []) == (broken.faults, broken.manifest_faults)
        assert registry.served_bytes() <= len(LARGE) + 10_000_000


def test_a_link_to_the_cdn_that_has_run_out_is_asked_for_again(tmp_path):
    faults = [Fault(status=403), Fault(reset_after_bytes=5_000_000), Fault(status=400), Fault(status=401)]
    with daemon_and_registry(tmp_path, large=RegistryModel(model=LARGE, faults=faults)) as (daemon, registry):
        lines = pull(daemon, LARGE_NAME)
        assert SUCCESS == lines[-1]
        assert [] == faults
        assert registry.served_bytes() < len(LARGE) + 2**20
        waited = [line["status"] for line in lines if "trying again" in line["status"]]
        host = registry.cdn_url.removeprefix("http://")
        assert [f"{host} refuses the link of {registry.url} to tiny:large (401): trying again in 2 s"] == waited


def test_a_trickle_is_waited_for(tmp_path):
    trickle = RegistryModel(model=GUIDE, pace=Pace(bytes_per_second=1_000_000, piece_bytes=997))
    with daemon_and_registry(tmp_path, latest=trickle) as (daemon, _):
        started = time.monotonic()
        assert SUCCESS == pull(daemon, NAME)[-1]
        assert time.monotonic() - started > 2


def test_two_pulls_share_one_download_also_under_the_registrys_other_name(tmp_path):
    slow = RegistryModel(model=LARGE, pace=Pace(bytes_per_second=500_000))
    with daemon_and_registry(tmp_path, large=slow, same=slow) as (daemon, registry):
        said: list[str] = []
        others = ("registry.ollama.ai/library/tiny:large", f"{NAME}:same")
        threads = [Thread(target=listen, args=(daemon, name, said)) for name in others]
        with daemon.http.stream("POST", "/api/pull", json={"model": LARGE_NAME}) as first:
            lines = lines_of(first)  # kept: its end would close the connection
            assert any("completed" in line for line in lines)
            for thread in threads:
                thread.start()
            wait_for(lambda: "waiting for another download of tiny:same" in said, 30)
            # Both have joined once both have been told what was told before them.
            wait_for(lambda: 2 == said.count("pulling manifest"), 30)
        slow.pace.bytes_per_second = 0
        for thread in threads:
            thread.join(30)
        assert 2 == said.count("success")
        assert len(LARGE) == registry.served_bytes()


def listen(daemon: Daemon, name: str, said: list[str]) -> None:
    """A pull whose statuses are heard as they come."""
    with httpx.stream("POST", f"{daemon.url}/api/pull", json={"model": name}, timeout=60, trust_env=False) as response:
        said.extend(line["status"] for line in lines_of(response))


def test_a_client_that_leaves_stops_the_download_and_the_next_goes_on_there(tmp_path):
    slow = RegistryModel(model=LARGE, pace=Pace(bytes_per_second=4_000_000))
    with daemon_and_registry(tmp_path, large=slow) as (daemon, registry):
        with daemon.http.stream("POST", "/api/pull", json={"model": LARGE_NAME}) as response:
            assert any(line.get("completed", 0) > 2_000_000 for line in lines_of(response))
        wait_for(lambda: not registry.open_transfers, 5)
        assert 2_000_000 < partial_bytes(tmp_path) < len(LARGE)
        assert [] == names(daemon)
        slow.pace = Pace()
        assert SUCCESS == pull(daemon, LARGE_NAME)[-1]
        assert registry.served_bytes() - len(LARGE) < 2**20


def test_a_registry_that_asks_for_a_token_gets_an_anonymous_one_and_the_cdn_gets_none(tmp_path):
    with daemon_and_registry(tmp_path, needs_token=True, latest=RegistryModel(model=GUIDE)) as (daemon, registry):
        assert SUCCESS == pull(daemon, NAME)[-1]
        assert ["repository:library/tiny:pull"] == registry.scopes
        assert [] == registry.tokens_at_cdn
        registry.realm = "http://elsewhere.example/token"
        last = pull(daemon, f"{NAME}:other")[-1]
        assert "asks for a login in a way that is not followed" in last["error"]


def test_the_rate_is_kept_to_and_a_disk_without_room_is_told_before(tmp_path):
    giant = json.dumps({"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{'1' * 64}",
                                    "size": 10**15}]})  # fmt: skip
    tags = {"latest": RegistryModel(model=GUIDE), "giant": RegistryModel(manifest=giant.encode())}
    with daemon_and_registry(tmp_path, **tags) as (daemon, _):
        started = time.monotonic()
        assert SUCCESS == pull(daemon, NAME, limit_rate="2M")[-1]
        assert time.monotonic() - started > 1.0
        last = pull(daemon, f"{NAME}:giant")[-1]
        assert "library/tiny needs 1000 TB more" in last["error"]
        assert "set LOCALLLM_MODELS to a larger disk" in last["hint"]


def test_no_network_and_a_folder_that_cannot_be_written_are_told_with_what_to_do(tmp_path):
    with running_daemon(tmp_path, LOCALLLM_REGISTRY="http://127.0.0.1:9", NO_PROXY="*") as daemon:
        last = pull(daemon, NAME)[-1]
        assert "http://127.0.0.1:9 cannot be reached" in last["error"]
        assert "check the network, LOCALLLM_REGISTRY and the proxy" in last["hint"]
    blocked = tmp_path / "blocked"
    (blocked / "models" / "localllm").mkdir(parents=True)
    (blocked / "models" / "localllm" / "blobs").write_text("in the way")
    with daemon_and_registry(blocked, latest=RegistryModel(model=GUIDE)) as (daemon, _):
        last = pull(daemon, NAME)[-1]
        assert "blobs cannot be written" in last["error"]
        assert "set LOCALLLM_MODELS to another folder" in last["hint"]


def test_the_command_shows_the_model_by_its_name(tmp_path):
    with daemon_and_registry(tmp_path, latest=RegistryModel(model=GUIDE, licenses=("MIT",))) as (daemon, _):
        done = run_cli("pull", NAME, environment=daemon.environment)
        assert (0, f"pulled '{NAME}'\n") == (done.returncode, done.stdout)
        assert "license: MIT" == done.stderr.splitlines()[0]
        assert done.stderr.splitlines()[-1].startswith("tiny:latest: 2.6 MB of 2.6 MB")
        unknown = run_cli("pull", "someone/tiny", environment=daemon.environment)
        assert "say where it is: hf.co/someone/tiny or ollama.com/someone/tiny" in unknown.stderr
