"""Models made from `guide` through the real commands and the real daemon: what a Modelfile says is what happens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_process import run_cli
from daemon_process import Daemon, lines_of, running_daemon
from hub_server import HubRepo, hub_server

GUIDE = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"
CHATML = """\
{{- range $i, $_ := .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("create")) as running:
        yield running


def create(daemon: Daemon, name: str, text: str) -> None:
    file = daemon.home / f"{name}.Modelfile"
    file.write_text(text)
    result = run_cli("create", name, "-f", str(file), environment=daemon.environment)
    assert 0 == result.returncode, result.stderr


def ask(daemon: Daemon, name: str, text: str = "How do I pull a model?", **body: object) -> dict:
    messages = [{"role": "user", "content": text}]
    answer = daemon.http.post("/api/chat", json={"model": name, "messages": messages, "stream": False, **body})
    assert 200 == answer.status_code, answer.text
    return answer.json()


def test_parameters_hold_for_every_request_that_says_nothing_else(daemon: Daemon) -> None:
    create(daemon, "short", "FROM guide\nPARAMETER num_predict 3\nPARAMETER temperature 0\n")
    answer = ask(daemon, "short")
    assert (3, "length") == (answer["eval_count"], answer["done_reason"])
    assert 5 == ask(daemon, "short", options={"num_predict": 5})["eval_count"]


def test_a_stop_text_of_the_modelfile_ends_the_answer(daemon: Daemon) -> None:
    create(daemon, "plain", "FROM guide\nPARAMETER temperature 0\n")
    whole = ask(daemon, "plain")["message"]["content"]
    stop = whole.split()[2]
    create(daemon, "stops", f'FROM plain\nPARAMETER stop "{stop}"\n')
    assert whole.partition(stop)[0] == ask(daemon, "stops")["message"]["content"]


def test_system_and_messages_come_before_what_the_client_says(daemon: Daemon) -> None:
    create(daemon, "bare", "FROM guide\nPARAMETER num_predict 1\n")
    create(daemon, "told", 'FROM bare\nSYSTEM "Answer in one word."\nMESSAGE user Is it?\nMESSAGE assistant Yes.\n')
    told = ask(daemon, "told")["prompt_eval_count"]
    said = [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "Is it?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "How do I pull a model?"},
    ]
    same = daemon.http.post("/api/chat", json={"model": "bare", "messages": said, "stream": False}).json()
    assert same["prompt_eval_count"] == told > ask(daemon, "bare")["prompt_eval_count"]


def test_a_go_template_makes_the_prompt_that_its_jinja_twin_makes(daemon: Daemon) -> None:
    # Jinja drops one line break at the end.
    turns = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    jinja = f"{turns}<|im_start|>assistant\n\n"
    create(daemon, "go", f'FROM guide\nPARAMETER temperature 0\nTEMPLATE """{CHATML}"""\n')
    create(daemon, "jinja", f'FROM guide\nPARAMETER temperature 0\nTEMPLATE """{jinja}"""\n')
    one, other = ask(daemon, "go"), ask(daemon, "jinja")
    assert one["prompt_eval_count"] == other["prompt_eval_count"]
    assert one["message"] == other["message"]
    assert "localllm" in one["message"]["content"]


def test_a_template_of_the_older_form_is_asked_with_the_prompt_alone(daemon: Daemon) -> None:
    create(daemon, "old", 'FROM guide\nPARAMETER num_predict 1\nTEMPLATE "{{ .Prompt }}"\n')
    tokens = ask(daemon, "old", text="Hello there")["prompt_eval_count"]
    raw = {"model": "old", "prompt": "Hello there", "raw": True, "stream": False}
    assert daemon.http.post("/api/generate", json=raw).json()["prompt_eval_count"] == tokens


def test_a_draft_model_named_before_there_were_any_has_no_effect_and_show_and_run_say_so_once(daemon: Daemon) -> None:
    said, why = "DRAFT", "it was named before localllm had draft models; create the model again"
    create(daemon, "drafted", "FROM guide\nPARAMETER temperature 0\n")
    manifest = next(daemon.home.glob("**/drafted/latest.json"))
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"draft": "./somewhere/small.gguf"}))
    shown = run_cli("show", "drafted", environment=daemon.environment)
    assert 1 == shown.stdout.count("small.gguf")
    assert f"small.gguf (no effect: {why})" in shown.stdout
    text = run_cli("show", "drafted", "--modelfile", environment=daemon.environment).stdout
    assert f"# DRAFT small.gguf (no effect: {why})" in text.splitlines()
    for words in ((), ("Hello",)):
        answered = run_cli("run", "drafted", *words, environment=daemon.environment, stdin="" if words else "Hello")
        assert (0, 1) == (answered.returncode, answered.stderr.count(said))
        assert f"DRAFT in the model's Modelfile has no effect: {why}" in answered.stderr
        assert said not in answered.stdout
    plain = run_cli("run", "guide", "Hello", environment=daemon.environment)
    assert said not in plain.stderr
    body = {"model": "drafted", "prompt": "Hello", "stream": False}
    assert "DRAFT" == daemon.http.post("/api/generate", json=body).headers["x-localllm-ignored"]
    create(daemon, "heir", "FROM drafted\n")
    assert "draft" in daemon.http.post("/api/show", json={"model": "heir"}).json()


def test_a_file_that_is_sent_becomes_a_model_that_answers(daemon: Daemon) -> None:
    data = GUIDE.read_bytes()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert 201 == daemon.http.post(f"/api/blobs/{digest}", content=data).status_code
    body = {"model": "sent", "files": {"guide.gguf": digest}, "parameters": {"temperature": 0}, "stream": False}
    assert {"status": "success"} == daemon.http.post("/api/create", json=body).json()
    create(daemon, "here", f"FROM {GUIDE}\nPARAMETER temperature 0\n")
    assert ask(daemon, "here")["message"] == ask(daemon, "sent")["message"]
    assert 200 == daemon.http.request("DELETE", "/api/delete", json={"model": "sent"}).status_code
    assert [] == list((daemon.home / "models" / "localllm" / "blobs").iterdir())


def test_a_load_parameter_shapes_the_runner(daemon: Daemon) -> None:
    create(daemon, "narrow", "FROM guide\nPARAMETER num_parallel 1\nPARAMETER num_ctx 64\nPARAMETER num_predict 1\n")
    refused = daemon.http.post("/api/generate", json={"model": "narrow", "prompt": "word " * 100, "stream": False})
    assert 400 == refused.status_code
    assert "> 64 maximum context length" in refused.json()["error"]
    assert 1 == ask(daemon, "narrow")["eval_count"]


def test_a_base_that_is_not_there_is_pulled_first(tmp_path: Path) -> None:
    repositories = {f"owner/{name}": HubRepo({f"{name}-Q4_K_M.gguf": GUIDE.read_bytes()}) for name in ("One", "Two")}
    with hub_server(repositories) as hub:
        variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*"}
        with running_daemon(tmp_path, **variables) as daemon:
            body = {"model": "one", "from": "hf.co/owner/One", "system": "Be brief."}
            with daemon.http.stream("POST", "/api/create", json=body) as answer:
                statuses = [line["status"] for line in lines_of(answer)]
            assert ("pulling manifest", 1) == (statuses[0], statuses.count("success"))
            assert ["parsing GGUF", "writing manifest", "success"] == statuses[-3:]
            made = run_cli("create", "two", "--from", "hf.co/owner/Two", environment=daemon.environment)
            assert (0, "created 'two:latest'") == (made.returncode, made.stdout[:20])
            names = [model["name"] for model in daemon.http.get("/api/tags").json()["models"]]
            assert {"one:latest", "two:latest", "hf.co/owner/One:latest", "hf.co/owner/Two:latest"} < set(names)
            absent = {"model": "three", "from": "hf.co/owner/Three"}
            *_, last = daemon.http.post("/api/create", json=absent).text.splitlines()
            assert "owner/Three is not on" in last
