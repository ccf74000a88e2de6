"""`import`, `du` and `gc` as people run them: the real CLI, pulls from a hub on loopback, folders of other tools."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

from cli_process import cli_environment, run_cli
from daemon_process import running_daemon
from hub_server import HubRepo, hub_server
from pseudo_terminal import Terminal
from pulls import GUIDE, GUIDE_FILE, LARGE, pull

NAME = "hf.co/owner/Tiny-GGUF"


def make_older(cache: Path, blob: Path) -> None:
    """As if a download had been there for two hours, and noted so by those who made it."""
    moment = time.time_ns() - int(7200e9)
    os.utime(blob, ns=(moment, moment))
    note = cache / ".locks" / "localllm" / f"{blob.name}.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "modified_ns": blob.stat().st_mtime_ns}))


def test_a_pulled_model_whose_name_was_removed_is_shown_by_du_and_removed_by_gc(tmp_path):
    repository = HubRepo({"Tiny-Q4_K_M.gguf": GUIDE, "Tiny-Q8_0.gguf": LARGE})
    cache = tmp_path / "hf" / "hub"
    with hub_server({"owner/Tiny-GGUF": repository}) as hub:
        more = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*"}
        with running_daemon(tmp_path, **more) as daemon:
            environment = {**daemon.environment, **more}
            pull(daemon, NAME)
            pull(daemon, f"{NAME}:Q8_0")
            foreign = cache / "models--someone--Else" / "blobs" / "0123"
            foreign.parent.mkdir(parents=True)
            foreign.write_bytes(b"theirs")

            used = run_cli("du", environment=environment)
            rows = {line.split()[0]: line.split()[1:3] for line in used.stdout.splitlines()}
            assert {"NAME", "guide:latest", f"{NAME}:latest", f"{NAME}:Q8_0"} == set(rows)
            assert "UNUSED" not in used.stdout
            nothing = run_cli("gc", "--yes", environment=environment)
            assert (0, "", "nothing to remove\n") == (nothing.returncode, nothing.stdout, nothing.stderr)

            assert 0 == run_cli("rm", f"{NAME}:Q8_0", environment=environment).returncode
            left = run_cli("du", environment=environment)
            assert "`localllm gc` removes them" in left.stderr
            (line,) = [line for line in left.stdout.splitlines() if line.startswith("download")]
            assert str(cache / "models--owner--Tiny-GGUF" / "blobs") in line

            young = run_cli("gc", "--yes", environment=environment)
            assert "(stays: it was written a moment ago)" in young.stdout
            make_older(cache, next(path for path in cache.glob("*/blobs/*") if path.stat().st_size == len(LARGE)))
            dry = run_cli("gc", "--dry-run", environment=environment)
            assert "1 file, 15 MB would be removed\n" == dry.stderr
            unasked = run_cli("gc", environment=environment)
            assert (1, True) == (unasked.returncode, "nobody can be asked here" in unasked.stderr)
            assert 2 == len(list(cache.glob("models--owner--*/snapshots/*/*.gguf")))

            done = json.loads(run_cli("gc", "--yes", "--json", environment=environment).stdout)
            assert [("download", len(LARGE), True)] == [
                (one["leftover"]["kind"], one["leftover"]["size_bytes"], one["is_removed"]) for one in done
            ]
            assert ["Tiny-Q4_K_M.gguf"] == [path.name for path in cache.glob("models--owner--*/snapshots/*/*.gguf")]
            assert b"theirs" == foreign.read_bytes()
            assert "pull" in run_cli("run", NAME, "How do I pull a model?", environment=environment, seconds=100).stdout
            pull(daemon, f"{NAME}:Q8_0")
            assert 2 * len(LARGE) == hub.served["owner/Tiny-GGUF/Tiny-Q8_0.gguf"]


def test_gc_asks_on_a_terminal_and_takes_no_for_an_answer(tmp_path):
    blobs = tmp_path / "models" / "localllm" / "blobs"
    blobs.mkdir(parents=True)
    blob = blobs / f"sha256-{'a' * 64}"
    environment = cli_environment(tmp_path, "127.0.0.1:1")
    for answer, stays in (("n\r", True), ("\r", True), ("y\r", False)):
        blob.write_bytes(b"x" * 2000)
        os.utime(blob, (1, 1))
        with Terminal("gc", environment=environment) as terminal:
            terminal.wait_for("Remove 1 file, 2 KB? [y/N]")
            terminal.type(answer)
            assert 0 == terminal.end()
        assert stays == blob.exists()


def test_a_manifest_that_cannot_be_read_stops_gc(tmp_path):
    environment = cli_environment(tmp_path, "127.0.0.1:1")
    model = tmp_path / "model.gguf"
    shutil.copyfile(GUIDE_FILE, model)
    assert 0 == run_cli("create", "mine", "--from", str(model), environment=environment).returncode
    (tmp_path / "models/localllm/manifests/mine/latest.json").write_bytes(b"{")
    stopped = run_cli("gc", "--yes", environment=environment)
    assert 1 == stopped.returncode
    assert "a manifest cannot be read, and any file may be its own" in stopped.stderr
    assert "localllm rm NAME" in stopped.stderr


def test_lm_studios_models_are_imported_in_place_and_answer(tmp_path):
    file = tmp_path / ".lmstudio" / "models" / "maker" / "Small-GGUF" / "Small-Q4_K_M.gguf"
    file.parent.mkdir(parents=True)
    shutil.copyfile(GUIDE_FILE, file)
    (file.parent / "Cut-Q4_K_M.gguf").write_bytes(GUIDE[:1000])
    with running_daemon(tmp_path) as daemon:
        environment = daemon.environment
        dry = run_cli("import", "lmstudio", "--dry-run", environment=environment)
        assert "1 would be named, 0 named already, 1 skipped" in dry.stderr
        assert 404 == daemon.http.post("/api/show", json={"model": "small:q4_k_m"}).status_code
        done = run_cli("import", "lmstudio", environment=environment)
        assert dry.stdout == done.stdout
        header, row, skipped = done.stdout.splitlines()
        assert ["NAME", "SIZE", "WHAT"] == header.split()
        assert ["small:q4_k_m", str(file)] == [row.split()[0], row.split()[-1]]
        assert "truncated" in skipped
        assert "try: localllm run small:q4_k_m" in done.stderr
        assert (
            "pull"
            in run_cli("run", "small:q4_k_m", "How do I pull a model?", environment=environment, seconds=100).stdout
        )
        again = json.loads(run_cli("import", "lmstudio", "--json", environment=environment).stdout)
        assert ["known", "skipped"] == [one["status"] for one in again]


def test_a_tool_that_is_not_here_is_an_error_with_a_way_out(tmp_path):
    answer = run_cli("import", "lmstudio", environment=cli_environment(tmp_path, "127.0.0.1:1"))
    assert 1 == answer.returncode
    assert f"there are no models of lmstudio: {tmp_path}" in answer.stderr
    assert "hint: if they lie elsewhere, name that folder: localllm import DIR" in answer.stderr
