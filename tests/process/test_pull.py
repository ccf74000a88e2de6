"""Pulls as people make them: the real CLI, the real daemon, the real huggingface_hub client, a hub on loopback."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from cli_process import LOCALLLM, run_cli
from daemon_process import Daemon, lines_of, running_daemon, wait_for
from hub_server import Fault, HubRepo, HubServer, hub_server
from pseudo_terminal import Terminal
from pulls import GUIDE, GUIDE_FILE, LARGE, SUCCESS, kill_at_random, names, partial_bytes, projector_bytes, pull

from localllm.sizes import size_text

NAME = "hf.co/owner/Tiny-GGUF"


def repository(**changes) -> HubRepo:
    files = {"Tiny-Q4_K_M.gguf": GUIDE, "Tiny-Q8_0.gguf": LARGE, "README.md": b"# Tiny"}
    return HubRepo(files, plain=frozenset({"README.md"}), license="mit", **changes)


@contextmanager
def daemon_and_hub(home: Path, **repositories: HubRepo) -> Iterator[tuple[Daemon, HubServer]]:
    names = {f"owner/{name.replace('_', '-')}": kept for name, kept in repositories.items()}
    with hub_server(names) as hub, running_daemon(home, **variables(hub, home)) as daemon:
        yield daemon, hub


def variables(hub: HubServer, home: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "NO_PROXY": "*"}


def test_a_pulled_model_is_verified_named_and_answers_and_is_not_downloaded_again(tmp_path):
    with daemon_and_hub(tmp_path, Tiny_GGUF=repository()) as (daemon, hub):
        lines = pull(daemon, NAME)
        assert "pulling manifest" == lines[0]["status"]
        assert "the client left" not in daemon.log()
        assert {"status": "license: mit"} in lines
        digest = f"sha256:{hub.repositories['owner/Tiny-GGUF'].oid('Tiny-Q4_K_M.gguf')}"
        whole = {"digest": digest, "total": len(GUIDE), "completed": len(GUIDE), "file": "Tiny-Q4_K_M.gguf"}
        assert {"status": f"pulling {digest[7:19]}", **whole} in lines
        words = ["verifying sha256 digest", "writing manifest", "success"]
        assert words == [line["status"] for line in lines[-3:]]
        assert [f"{NAME}:latest"] == names(daemon)
        answer = daemon.http.post("/api/chat", json={
            "model": NAME, "stream": False, "messages": [{"role": "user", "content": "How do I pull a model?"}],
        }).json()  # fmt: skip
        assert "pull" in answer["message"]["content"]
        assert SUCCESS == daemon.http.post("/api/pull", json={"model": f"{NAME}:q4_k_m", "stream": False}).json()
        assert {"owner/Tiny-GGUF/Tiny-Q4_K_M.gguf": len(GUIDE)} == hub.served
        assert [] == hub.tokens_at_cdn
        assert not list((tmp_path / "hf").rglob("*.incomplete"))
        assert 200 == daemon.http.request("DELETE", "/api/delete", json={"model": NAME}).status_code
        assert [f"{NAME}:q4_k_m"] == names(daemon)


@pytest.mark.parametrize(
    ("name", "error", "hint"),
    [
        (
            f"{NAME}:Q9_Z",
            "owner/Tiny-GGUF has no Q9_Z",
            f"it has Q4_K_M ({size_text(len(GUIDE))}), Q8_0 ({size_text(len(LARGE))})",
        ),
        ("hf.co/owner/Nothing", "owner/Nothing is not on http", "HF_TOKEN"),
        ("hf.co/owner/Empty", "owner/Empty has no GGUF model", "whose name ends in GGUF"),
        ("hf.co/owner/Gated", "owner/Gated asks everyone to accept its terms first", "HF_TOKEN"),
        ("hf.co/owner/Wrong", "a.gguf was downloaded, but its hash is", "pull it again"),
        ("hf.co/owner/Page", "is not a GGUF file: it starts with '<htm'", "was a web page"),
        ("hf.co/owner/Split", "owner/Split has 1 of the 2 parts of Q4_K_M", "ask its owner"),
    ],
)
def test_what_cannot_be_pulled_leaves_no_name_and_says_why(bad_hub, name, error, hint):
    daemon, _ = bad_hub
    last = pull(daemon, name)[-1]
    assert error in last["error"]
    assert hint in last["hint"]
    assert [] == names(daemon)
    answer = daemon.http.post("/api/pull", json={"model": name, "stream": False})
    assert answer.status_code >= 400
    assert last["error"] == answer.json()["error"]


@pytest.fixture(scope="module")
def bad_hub(tmp_path_factory):
    repositories = {
        "Tiny_GGUF": repository(),
        "Empty": HubRepo({"README.md": b"x"}, plain=frozenset({"README.md"})),
        "Gated": HubRepo({"a.gguf": GUIDE}, is_gated=True, token="hf_x"),
        "Wrong": HubRepo({"a.gguf": GUIDE}, claimed={"a.gguf": "ab" * 32}),
        "Page": HubRepo({"a.gguf": b"<html>" * 100}),
        "Split": HubRepo({"a-Q4_K_M-00001-of-00002.gguf": GUIDE}),
    }
    with daemon_and_hub(tmp_path_factory.mktemp("bad"), **repositories) as running:
        yield running


def test_names_that_stand_for_nothing_are_refused_before_anything_is_asked(bad_hub):
    daemon, hub = bad_hub
    asked = len(hub.requests)
    answers = [
        daemon.http.post("/api/pull", json={"model": name})
        for name in ("nobody", "../../etc/passwd", "", "other/model")
    ]
    assert [404, 400, 400, 404] == [answer.status_code for answer in answers]
    assert "`localllm search`" in answers[0].json()["hint"]
    assert "`localllm pull ollama.com/library/nobody`" in answers[0].json()["hint"]
    assert "say where it is: hf.co/other/model or ollama.com/other/model" == answers[3].json()["hint"]
    assert asked == len(hub.requests)
    assert [SUCCESS] == pull(daemon, "guide")


def test_a_model_that_was_made_here_is_there_for_an_agent_that_pulls_it(bad_hub):
    daemon, hub = bad_hub
    asked = len(hub.requests)
    assert 0 == run_cli("create", "mine", "--from", str(GUIDE_FILE), environment=daemon.environment).returncode
    said = {"status": "mine was made here: there is nothing to download"}
    assert [said, SUCCESS] == pull(daemon, "mine")
    assert SUCCESS == daemon.http.post("/api/pull", json={"name": "mine:latest", "stream": False}).json()
    assert 404 == daemon.http.post("/api/pull", json={"name": "mine:other"}).status_code
    assert asked == len(hub.requests)
    assert 200 == daemon.http.request("DELETE", "/api/delete", json={"model": "mine"}).status_code


def test_a_connection_that_breaks_and_a_busy_hub_are_tried_again_where_it_stopped(tmp_path):
    faults = [Fault(reset_after_bytes=5_000_000), Fault(status=429, retry_after="1"), Fault(status=503),
              Fault(reset_after_bytes=4_000_000), Fault(ignores_range=True, reset_after_bytes=1_000_000)]  # fmt: skip
    broken = repository(faults={"Tiny-Q8_0.gguf": faults}, api_faults=[500])
    with daemon_and_hub(tmp_path, Tiny_GGUF=broken) as (daemon, hub):
        assert SUCCESS == pull(daemon, f"{NAME}:Q8_0")[-1]
        assert [] == broken.faults["Tiny-Q8_0.gguf"]
        assert hub.served_bytes() <= len(LARGE) + 5_000_000 + 4_000_000 + 1_000_000


def test_two_pulls_share_one_download_and_it_goes_on_until_the_last_client_leaves(tmp_path):
    slow = repository(bytes_per_second=4_000_000)
    with daemon_and_hub(tmp_path, Tiny_GGUF=slow) as (daemon, hub):
        ended: list[dict] = []
        body = {"model": f"{NAME}:Q8_0"}
        with daemon.http.stream("POST", "/api/pull", json=body) as first:
            lines = lines_of(first)
            assert any("completed" in line for line in lines)
            other = Thread(target=lambda: ended.extend(pull(daemon, f"{NAME}:q8_0")))
            other.start()
            wait_for(lambda: partial_bytes(tmp_path) > 3_000_000, 10)
        other.join(20)
        assert SUCCESS == ended[-1]
        assert len(LARGE) == hub.served_bytes()


def test_a_client_that_leaves_stops_the_download_and_the_next_goes_on_there(tmp_path):
    slow = repository(bytes_per_second=4_000_000)
    with daemon_and_hub(tmp_path, Tiny_GGUF=slow) as (daemon, hub):
        with daemon.http.stream("POST", "/api/pull", json={"model": f"{NAME}:Q8_0"}) as response:
            assert any(line.get("completed", 0) > 2_000_000 for line in lines_of(response))
        wait_for(lambda: not hub.open_transfers, 5)
        kept = partial_bytes(tmp_path)
        assert 2_000_000 < kept < len(LARGE)
        assert [] == names(daemon)
        slow.bytes_per_second = 0
        assert SUCCESS == pull(daemon, f"{NAME}:Q8_0")[-1]
        assert hub.served_bytes() - len(LARGE) < 2**20


def test_damage_in_what_was_there_is_found_and_downloaded_anew(tmp_path):
    with daemon_and_hub(tmp_path, Tiny_GGUF=repository()) as (daemon, hub):
        blobs = tmp_path / "hf" / "hub" / "models--owner--Tiny-GGUF" / "blobs"
        blobs.mkdir(parents=True)
        oid = hub.repositories["owner/Tiny-GGUF"].oid("Tiny-Q8_0.gguf")
        (blobs / f"{oid}.incomplete").write_bytes(LARGE[:3_000_000] + bytes(1_000_000))
        lines = pull(daemon, f"{NAME}:Tiny-Q8_0.gguf")
        assert {"status": "what was there of Tiny-Q8_0.gguf is damaged: downloading it anew"} in lines
        assert SUCCESS == lines[-1]


def test_the_rate_is_kept_to(tmp_path):
    with daemon_and_hub(tmp_path, Tiny_GGUF=repository()) as (daemon, _):
        started = time.monotonic()
        assert SUCCESS == pull(daemon, NAME, limit_rate="2M")[-1]
        assert time.monotonic() - started > 1.0  # that the pauses are no longer than they must be: test_store_download
        assert 400 == daemon.http.post("/api/pull", json={"model": NAME, "limit_rate": "fast"}).status_code


def test_offline_what_is_in_the_cache_is_used(tmp_path):
    with daemon_and_hub(tmp_path, Tiny_GGUF=repository()) as (daemon, hub):
        assert SUCCESS == pull(daemon, NAME)[-1]
    asked = len(hub.requests)
    offline = {**variables(hub, tmp_path), "HF_HUB_OFFLINE": "1"}
    with running_daemon(tmp_path / "other", **offline) as daemon:
        assert SUCCESS == pull(daemon, NAME)[-1]
        assert "HF_HUB_OFFLINE" in pull(daemon, "hf.co/owner/Other")[-1]["error"]
        missing = pull(daemon, f"{NAME}:Q8_0")[-1]
        assert "of owner/Tiny-GGUF the cache has no Q8_0" == missing["error"]
        assert "unset HF_HUB_OFFLINE" in missing["hint"]
    assert asked == len(hub.requests)


def test_a_token_opens_a_gated_repository_and_does_not_go_to_the_cdn(tmp_path):
    gated = repository(is_gated=True, token="hf_secret")
    with (
        hub_server({"owner/Tiny-GGUF": gated}) as hub,
        running_daemon(tmp_path, HF_TOKEN="hf_secret", **variables(hub, tmp_path)) as daemon,
    ):
        assert SUCCESS == pull(daemon, NAME)[-1]
    assert [] == hub.tokens_at_cdn


def test_the_command_prints_plain_lines_into_a_pipe_and_stops_at_ctrl_c(tmp_path):
    with daemon_and_hub(tmp_path, Tiny_GGUF=repository(bytes_per_second=20_000_000)) as (daemon, hub):
        done = run_cli("pull", "https://huggingface.co/owner/Tiny-GGUF", environment=daemon.environment)
        assert (0, "pulled 'https://huggingface.co/owner/Tiny-GGUF'\n") == (done.returncode, done.stdout)
        lines = done.stderr.splitlines()
        assert "license: mit" == lines[0]
        assert lines[-1].startswith(f"Tiny-Q4_K_M.gguf: {size_text(len(GUIDE))} of {size_text(len(GUIDE))}")
        command = [*LOCALLLM, "pull", f"{NAME}:Q8_0", "--limit-rate", "2M"]
        process = subprocess.Popen(command, env=daemon.environment, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: partial_bytes(tmp_path) > 500_000, 20)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
        assert 130 == process.returncode
        assert "the same command goes on where it stopped" in said
        wait_for(lambda: not hub.open_transfers, 5)
        assert 0 < partial_bytes(tmp_path) < len(LARGE)


def test_run_pulls_what_is_missing_and_a_terminal_shows_a_bar(tmp_path):
    with daemon_and_hub(tmp_path, Tiny_GGUF=repository()) as (daemon, hub):
        with Terminal("run", NAME, "How do I pull a model?", environment=dict(daemon.environment)) as terminal:
            assert 0 == terminal.end(30)
            assert "Tiny-Q4_K_M.gguf ━" in terminal.shown
            assert "localllm pull" in terminal.shown
        assert len(GUIDE) == hub.served_bytes()
        unknown = run_cli("run", "nobody", "hello", environment=daemon.environment)
        assert (1, "Error: model 'nobody' not found") == (unknown.returncode, unknown.stderr.splitlines()[0])


def test_a_short_name_brings_what_its_modelfile_says(tmp_path):
    with (
        hub_server({"bartowski/SmolLM2-135M-Instruct-GGUF": HubRepo({"SmolLM2-Q4_K_M.gguf": GUIDE})}) as hub,
        running_daemon(tmp_path, **variables(hub, tmp_path)) as daemon,
    ):
        assert SUCCESS == pull(daemon, "SmolLM2:135m")[-1]
        assert ["SmolLM2:135m"] == names(daemon)
        shown = daemon.http.post("/api/show", json={"model": "smollm2:135m"}).json()
        assert "temperature                    0.2" in shown["parameters"]
        assert "apache-2.0" == shown["license"]


def test_a_disk_without_room_is_told_with_the_figures_before_anything_is_downloaded(tmp_path):
    with daemon_and_hub(tmp_path, Tiny_GGUF=repository()) as (daemon, hub):
        hub.claimed_sizes["owner/Tiny-GGUF/Tiny-Q8_0.gguf"] = 10**15
        last = pull(daemon, f"{NAME}:Q8_0")[-1]
        assert "needs 1000 TB more, and 67 MB that stay free" in last["error"]
        assert "are free where the cache is" in last["error"]
        assert 0 == hub.served_bytes()


def test_whatever_kills_the_daemon_nothing_is_half_visible_and_the_next_pull_ends_right(tmp_path):
    """SIGKILL of the daemon at random points, over and over; its download ends with it."""
    points = random.Random(7)
    name = f"{NAME}:Q8_0"
    kept: list[int] = []
    with hub_server({"owner/Tiny-GGUF": repository(bytes_per_second=6_000_000)}) as hub:
        for _ in range(10):
            with running_daemon(tmp_path, **variables(hub, tmp_path)) as daemon:
                assert [] == names(daemon)
                kill_at_random(daemon, name, daemon.process.kill, lambda: partial_bytes(tmp_path), points)
                daemon.process.wait()
            wait_for(lambda: not hub.open_transfers, 5)
            kept.append(partial_bytes(tmp_path))
        assert len(set(kept)) >= 4, "the kills came before anything was downloaded"
        assert sorted(kept) == kept
        hub.repositories["owner/Tiny-GGUF"].bytes_per_second = 0
        with running_daemon(tmp_path, **variables(hub, tmp_path)) as daemon:
            assert SUCCESS == pull(daemon, name)[-1]
            assert [name] == names(daemon)
        assert hub.served_bytes() <= len(LARGE) + 16 * 2**20
    blob = next(path for path in (tmp_path / "hf").rglob("Tiny-Q8_0.gguf"))
    assert LARGE == blob.read_bytes()
    assert [] == list((tmp_path / "hf").rglob("blobs/*.incomplete"))
    assert json.loads(next(tmp_path.rglob("q8_0.json")).read_text())["source"].startswith("owner/Tiny-GGUF@")


def test_a_model_in_parts_is_pulled_whole_and_answers_like_the_one_file(tmp_path):
    parts = split_guide(tmp_path / "parts", tensors_per_part=20)
    assert 2 == len(parts)
    with daemon_and_hub(tmp_path, Tiny_GGUF=HubRepo(parts)) as (daemon, hub):
        assert SUCCESS == pull(daemon, NAME)[-1]
        assert [len(data) for data in parts.values()] == list(hub.served.values())
        bundled, pulled = (model_of(daemon, name) for name in ("guide", NAME))
        assert bundled["model_info"]["general.parameter_count"] == pulled["model_info"]["general.parameter_count"]
        question = {"stream": False, "messages": [{"role": "user", "content": "How do I pull a model?"}]}
        options = {"temperature": 0}
        answers = [
            daemon.http.post("/api/chat", json={"model": name, "options": options, **question}).json()
            for name in ("guide", NAME)
        ]
        assert answers[0]["message"] == answers[1]["message"]


def test_a_projector_comes_along_is_shown_and_is_not_taken_for_sight(tmp_path):
    files = {"Tiny-Q4_K_M.gguf": GUIDE, "mmproj-F32.gguf": b"not taken", "mmproj-F16.gguf": projector_bytes()}
    with daemon_and_hub(tmp_path, Tiny_GGUF=HubRepo(files)) as (daemon, hub):
        lines = pull(daemon, NAME)
        said = "with its projector mmproj-F16.gguf (2.3 KB), which is kept: this version reads no images yet"
        assert {"status": said} in lines
        assert SUCCESS == lines[-1]
        assert {"owner/Tiny-GGUF/Tiny-Q4_K_M.gguf", "owner/Tiny-GGUF/mmproj-F16.gguf"} == set(hub.served)
        shown = model_of(daemon, NAME)
        assert ("mmproj-F16.gguf", False) == (shown["projector"]["file"], shown["projector"]["is_used"])
        assert "vision" not in shown["capabilities"]
        assert "projector_info" not in shown, "clients conclude from it that images can be sent"
        sheet = run_cli("show", NAME, environment=daemon.environment).stdout
        assert "in use    no: this version reads no images yet" in sheet
        next((tmp_path / "hf").rglob("snapshots/*/mmproj-F16.gguf")).unlink()
        assert "the file is gone" in run_cli("show", NAME, environment=daemon.environment).stdout


def test_the_largest_quant_that_fits_is_taken_and_why_is_said(tmp_path):
    with daemon_and_hub(tmp_path, Tiny_GGUF=repository()) as (daemon, hub):
        hub.claimed_sizes["owner/Tiny-GGUF/Tiny-Q8_0.gguf"] = 10**15
        done = run_cli("pull", NAME, "--quant", "auto", environment=daemon.environment)
        assert (0, f"pulled '{NAME}'\n") == (done.returncode, done.stdout)
        said = done.stderr.splitlines()[0]
        assert said.startswith("taking Q4_K_M (2.6 MB), the largest that fits: it needs about ")
        assert " of main memory, of which " in said
        assert re.search(r"; too large: Q8_0 \(1000 TB\) lacks \d{4} TB$", said), said
        assert 1 == [line["status"] for line in pull(daemon, NAME, quant="auto")].count("pulling manifest")
        assert [f"{NAME}:latest"] == names(daemon)
        del hub.claimed_sizes["owner/Tiny-GGUF/Tiny-Q8_0.gguf"]
        assert "taking Q8_0" in pull(daemon, NAME, quant="AUTO")[1]["status"]


def test_a_quant_may_be_asked_for_beside_the_name_but_not_another_than_the_name_says(tmp_path):
    with daemon_and_hub(tmp_path, Tiny_GGUF=repository()) as (daemon, _):
        assert SUCCESS == pull(daemon, NAME, quant="q8_0")[-1]
        assert str(len(LARGE)) in json.dumps(daemon.http.get("/api/tags").json())
        assert SUCCESS == pull(daemon, f"{NAME}:Q4_K_M", quant="Q4_K_M")[-1]
        assert "owner/Tiny-GGUF has no Q9" == pull(daemon, NAME, quant="Q9")[-1]["error"]
        refused = [
            daemon.http.post("/api/pull", json={"model": name, "quant": quant}).json()
            for name, quant in ((f"{NAME}:Q4_K_M", "auto"), ("guide", "Q8_0"), (NAME, "../x"))
        ]
        assert [
            f"'{NAME}:Q4_K_M' says which quant already",
            "'guide' is here, in one quant, and comes from nowhere",
            "quant '../x' is not a quant",
        ] == [answer["error"] for answer in refused]


def model_of(daemon: Daemon, name: str) -> dict:
    return daemon.http.post("/api/show", json={"model": name}).json()


def split_guide(folder: Path, tensors_per_part: int) -> dict[str, bytes]:
    """The bundled model in several files, as llama-gguf-split writes them."""
    import gguf

    folder.mkdir()
    read = gguf.GGUFReader(GUIDE_FILE)
    architecture = read.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(folder / "guide-Q4_K_M.gguf", architecture, split_max_tensors=tensors_per_part)
    for name, field in read.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = field.types[0]
            element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=element)
    for tensor in read.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
