"""Schemathesis over /openapi.json, against the real daemon: thousands of requests per dialect, made to break it.

No server error, no status that the document does not name, no answer of another type or shape than it promises; and the
daemon serves on. Steered by programs/fuzz_hooks.py, so that most requests reach a model.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from cli_process import run_cli
from client_programs import PROGRAMS, python_environment
from daemon_process import running_daemon
from hub_server import hub_server
from synthetic_models import build

GUIDE = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
          "unsupported_method")  # fmt: skip
LEAST_CASES = 5000
# How many cases of each operation in the last phase make 5,000 of a dialect; the phase before makes some hundreds each.
CASES_EACH = {"Ollama": 320, "OpenAI": 260, "Anthropic": 1800, "llama.cpp": 400}
SEED = 20260101
# Making a case is what takes time: half an hour of a dialect where two cores are shared with others.
RUN_SECONDS = 3600
# Of one answer, on a machine where others compute, too.
ANSWER_SECONDS = 60

pytestmark = [pytest.mark.clients, pytest.mark.timeout(RUN_SECONDS + 200)]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with (
        hub_server({}) as hub,
        running_daemon(
            tmp_path_factory.mktemp("fuzzed"),
            HF_ENDPOINT=hub.url,
            LOCALLLM_REGISTRY=hub.url,
        ) as running,
    ):
        for name in ("bert-tiny", "bert-reranker-tiny"):
            file = build(name, GUIDE, running.home / f"{name}.gguf")
            assert 0 == run_cli("create", name, "--from", str(file), environment=running.environment).returncode
        yield running


@pytest.mark.parametrize("dialect", CASES_EACH)
def test_the_document_holds_for_thousands_of_requests(daemon, dialect, tmp_path, record_property):
    runner = daemon.runner_ids()
    done = subprocess.run(
        [
            python_environment() / "schemathesis", "--no-color", "run", f"{daemon.url}/openapi.json",
            "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--mode", "all",
            "--max-examples", str(CASES_EACH[dialect]), "--include-tag", dialect, "--seed", str(SEED),
            "--suppress-health-check", "all", "--warnings", "off", "--continue-on-failure",
            "--request-timeout", str(ANSWER_SECONDS),
        ],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SCHEMATHESIS_HOOKS": "fuzz_hooks",
             "PYTHONPATH": str(PROGRAMS), "NO_PROXY": "*", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path, capture_output=True, text=True, timeout=RUN_SECONDS,
    )  # fmt: skip
    said = done.stdout[-6000:] + done.stderr[-1000:]
    assert 0 == done.returncode, said
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated is not None, said
    record_property(f"requests to {dialect}", int(generated[1]))  # in the report of --junit-xml
    assert LEAST_CASES <= int(generated[1]), said
    assert "localllm pull" in daemon.chat("How do I pull a model?")["message"]["content"]
    assert daemon.process.poll() is None
    if runner:
        assert set(runner) <= set(daemon.runner_ids()), "a model's process did not survive"
    assert "Traceback" not in daemon.log()
