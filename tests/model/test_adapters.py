"""LoRA adapters on the real engine and through the real daemon: they change what they should, and nothing else.

The model is random and of F32, so that a model into which the adapter was merged says the same.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import EMBEDDING, merged, write_adapter
from cli_process import run_cli
from daemon_process import Daemon, running_daemon
from engine_scenarios import random_tokens
from gguf_fuzz.adapter_campaign import campaign
from gguf_fuzz.campaign import Loader
from gguf_fuzz.seeds import write_seeds
from synthetic_models import build

from localllm.gguf import TensorInfo, read_header
from localllm.gguf_adapters import check_adapter

GUIDE = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"
CHILD = Path(__file__).with_name("engine_child.py")
CHILD_SECONDS = 110
PROMPTS = [[10 + index, *range(100, 140)] for index in range(3)]  # they begin apart, and the last two are asked twice
STRONG = 0.2  # what it takes to change the mind of a model that was trained
NEARLY_EQUAL = 0.006  # as in the engine's equalities, of F32 weights
FEW = ("llama-moe", "gptoss", "qwen35", "bert")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("llama-tiny", GUIDE, tmp_path_factory.mktemp("adapters") / "base.gguf")


@pytest.fixture(scope="module")
def lora(base: Path) -> Path:
    return write_adapter(base.with_name("lora.gguf"), base)


@pytest.fixture(scope="module")
def nothing(base: Path) -> Path:
    return write_adapter(base.with_name("nothing.gguf"), base, is_zero=True)


def play(
    model: Path, *adapters: Path, layout: str = "unified", requests: list[dict[str, Any]] | None = None, **more: Any
) -> dict[str, Any]:
    """What each prompt gets, greedily, all in one batch, then the first again, on its cached prefix."""
    usual = [{"prompt": prompt, "new_tokens": 24} for prompt in PROMPTS]
    usual.append({**usual[0], "after": [0, 1, 2]})
    config = {"layout": layout, "adapters": [str(adapter) for adapter in adapters], **more}
    order = json.dumps([{"model": str(model), "requests": requests or usual, "config": config}])
    done = subprocess.run(
        [sys.executable, str(CHILD)], input=order, capture_output=True, text=True, timeout=CHILD_SECONDS, check=False
    )
    assert 0 == done.returncode, done.stderr[-3000:]
    (result,) = json.loads(done.stdout)
    return result


def tokens(result: dict[str, Any]) -> list[list[int]]:
    return [one["tokens"] for one in result["requests"]]


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The same tokens, but where the two best are next to equal: from there on they are two texts."""
    for mine, theirs in zip(one["requests"], other["requests"], strict=True):
        pairs = zip(mine["tokens"], theirs["tokens"], mine["best"], strict=True)
        parted = next((best for a, b, best in pairs if a != b), None)
        assert parted is None or parted[2] < NEARLY_EQUAL


@pytest.mark.parametrize("layout", ["unified", "streams"])
def test_an_adapter_says_what_the_merged_model_says_and_one_of_zeros_what_the_base_says(
    base: Path, lora: Path, nothing: Path, layout: str
) -> None:
    plain, adapted = play(base, layout=layout), play(base, lora, layout=layout)
    assert all(a != b for a, b in zip(tokens(plain), tokens(adapted), strict=True))
    assert_same(adapted, play(merged(base, lora, base.with_name(f"{layout}.gguf")), layout=layout))
    assert tokens(plain) == tokens(play(base, nothing, layout=layout))


def test_two_adapters_are_both_applied_in_any_order(base: Path, lora: Path) -> None:
    second = write_adapter(base.with_name("second.gguf"), base, seed=9, rank=8)
    both = play(base, lora, second)
    once_merged = merged(base, lora, base.with_name("once.gguf"))
    assert_same(both, play(merged(once_merged, second, base.with_name("twice.gguf"))))
    assert_same(both, play(base, second, lora))
    assert tokens(both) not in (tokens(play(base, lora)), tokens(play(base, second)))


def test_company_and_a_cached_prefix_change_nothing_with_an_adapter_either(base: Path, lora: Path) -> None:
    together = play(base, lora, max_sequences=4)
    first, *_, again = together["requests"]
    assert again["cached_tokens"] >= len(PROMPTS[0]) - 1
    assert first["tokens"] == again["tokens"]
    assert_same(together, play(base, lora, max_sequences=1))


def test_a_layout_that_changes_while_it_runs_keeps_the_adapter(base: Path, lora: Path) -> None:
    """A request that outgrows its stream makes the engine lay out its cells anew."""
    outgrown = {"max_sequences": 4, "pool_tokens": 4096, "layout": "auto"}
    longer = [{"prompt": random_tokens(10, 1044), "new_tokens": 24}]
    changed = play(base, lora, requests=longer, **outgrown)
    whole = play(merged(base, lora, base.with_name("grown.gguf")), requests=longer)
    assert (1, 0) == (changed["stats"]["changes"], whole["stats"]["changes"])
    assert 24 == len(tokens(changed)[0])
    assert_same(changed, whole)


def test_what_tokens_become_can_be_changed_too(base: Path) -> None:
    def is_embedding(tensor: TensorInfo) -> bool:
        return tensor.name == EMBEDDING

    path = write_adapter(base.with_name("embedding.gguf"), base, changes=is_embedding)
    check_adapter(read_header(path), read_header(base), path)
    adapted = play(base, path)
    assert_same(adapted, play(merged(base, path, base.with_name("embedded.gguf"))))
    assert tokens(adapted) != tokens(play(base))


def test_adapters_of_other_kinds_of_models_are_applied_and_broken_ones_harm_nobody(tmp_path: Path) -> None:
    models = write_seeds(tmp_path / "seeds", FEW)
    made = campaign(models, tmp_path)
    with Loader() as loader:
        for model, adapter in zip(models, made.seeds, strict=True):
            made.accept([adapter], model.stem)
            assert loader.load(model, *(adapter,) * 4)["said"] in ("decoded", "embedded")
    report = made.run(range(200))
    assert [] == report.harm, report.summary()
    assert min(report.refused, report.accepted) > 20


@pytest.fixture(scope="module")
def daemon(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


def create(daemon: Daemon, name: str, text: str) -> None:
    file = daemon.home / f"{name}.Modelfile"
    file.write_text(text)
    made = run_cli("create", name, "-f", str(file), environment=daemon.environment)
    assert 0 == made.returncode, made.stderr


def ask(daemon: Daemon, name: str) -> str:
    options = {"temperature": 0, "num_predict": 24}
    body = {"model": name, "prompt": "How do I pull a model?", "stream": False, "options": options}
    return str(daemon.http.post("/api/generate", json=body).raise_for_status().json()["response"])


def test_a_model_with_an_adapter_beside_its_base_through_the_daemon(daemon: Daemon) -> None:
    for name, is_zero in (("lora", False), ("nothing", True)):
        write_adapter(daemon.home / f"{name}.gguf", GUIDE, is_zero=is_zero, spread=STRONG, data_type=np.float16)
        create(daemon, name, f"FROM guide\nADAPTER ./{name}.gguf\n")
    base_says = ask(daemon, "guide")
    assert base_says == ask(daemon, "nothing") != ask(daemon, "lora")
    assert 3 == len(daemon.runner_ids())
    assert (base_says, ask(daemon, "lora")) == (ask(daemon, "guide"), ask(daemon, "lora"))
    sizes = {model["name"]: model["size"] for model in daemon.http.get("/api/ps").json()["models"]}
    added = sum(tensor.size_bytes for tensor in read_header(daemon.home / "lora.gguf").tensors)
    assert sizes["lora:latest"] - sizes["guide:latest"] == pytest.approx(added, abs=0.4 * added)


def test_what_is_shown_counted_and_planned_of_an_adapter(daemon: Daemon) -> None:
    write_adapter(daemon.home / "seen.gguf", GUIDE)
    create(daemon, "seen", "FROM guide\nADAPTER ./seen.gguf\nSYSTEM Be brief.\n")
    size = (daemon.home / "seen.gguf").stat().st_size
    shown = daemon.http.post("/api/show", json={"model": "seen"}).json()
    assert [{"file": "seen.gguf", "size": size, "rank": 4, "alpha": 8.0}] == [
        {key: one[key] for key in ("file", "size", "rank", "alpha")} for one in shown["adapters"]
    ]
    assert "# ADAPTER seen.gguf (comes with FROM)" in shown["modelfile"].splitlines()
    assert str(daemon.home) not in json.dumps(shown)
    sheet = run_cli("show", "seen", environment=daemon.environment).stdout
    assert "Adapters" in sheet
    assert "seen.gguf" in sheet
    usage = {
        one["name"]: one for one in json.loads(run_cli("du", "--json", environment=daemon.environment).stdout)["models"]
    }
    assert usage["seen:latest"]["size_bytes"] - usage["guide:latest"]["size_bytes"] == size
    assert str(daemon.home / "seen.gguf") in usage["seen:latest"]["files"]
    plans = [
        daemon.http.post("/api/plan", json={"model": name}).raise_for_status().json()["plan"]["devices"][-1]["weights"]
        for name in ("guide", "seen")
    ]
    assert plans[1] - plans[0] == pytest.approx(size, rel=0.05)


def test_a_model_made_of_one_with_an_adapter_has_it_and_the_same_one_once(daemon: Daemon) -> None:
    write_adapter(daemon.home / "again.gguf", GUIDE)
    create(daemon, "first", "FROM guide\nADAPTER ./again.gguf\n")
    create(daemon, "second", "FROM first\nADAPTER ./again.gguf\nSYSTEM Be brief.\n")
    shown = daemon.http.post("/api/show", json={"model": "second"}).json()
    assert ["again.gguf"] == [one["file"] for one in shown["adapters"]]
    assert ask(daemon, "first") == ask(daemon, "second")


def test_an_adapter_that_is_sent_makes_the_model_that_the_command_makes(daemon: Daemon) -> None:
    path = write_adapter(daemon.home / "sent.gguf", GUIDE, seed=5, spread=STRONG)
    data = path.read_bytes()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert 201 == daemon.http.post(f"/api/blobs/{digest}", content=data).status_code
    body = {"model": "sent", "from": "guide", "adapters": {"sent.gguf": digest}}
    lines = [json.loads(line) for line in daemon.http.post("/api/create", json=body).text.splitlines()]
    assert ["parsing GGUF", "checking adapters", "writing manifest", "success"] == [line["status"] for line in lines]
    create(daemon, "here", "FROM guide\nADAPTER ./sent.gguf\n")
    create(daemon, "blob", f"FROM guide\nADAPTER @{digest}\n")
    assert ask(daemon, "guide") != ask(daemon, "sent") == ask(daemon, "here") == ask(daemon, "blob")


def test_an_adapter_that_went_away_or_fits_no_more_is_told(daemon: Daemon) -> None:
    path = write_adapter(daemon.home / "gone.gguf", GUIDE)
    create(daemon, "lost", "FROM guide\nADAPTER ./gone.gguf\n")
    path.unlink()
    error = daemon.http.post("/api/generate", json={"model": "lost", "prompt": "x"}).json()
    assert "the adapter of model 'lost:latest' is gone" in error["error"]
    assert "localllm create lost:latest -f MODELFILE" in error["hint"]


def test_an_adapter_of_another_model_is_refused_before_the_name_is_there(daemon: Daemon, base: Path) -> None:
    write_adapter(daemon.home / "other.gguf", base)
    file = daemon.home / "other.Modelfile"
    file.write_text("FROM guide\nADAPTER ./other.gguf\n")
    refused = run_cli("create", "other", "-f", str(file), environment=daemon.environment)
    assert 1 == refused.returncode
    assert "does not fit the model" in refused.stderr
    assert "name the model it was trained on in FROM" in refused.stderr
    assert 404 == daemon.http.post("/api/show", json={"model": "other"}).status_code


def test_the_vectors_of_an_embedding_model_change_with_its_adapter(daemon: Daemon) -> None:
    model = build("bert-tiny", GUIDE, daemon.home / "bert.gguf")
    for name, is_zero in (("vectors", False), ("same", True)):
        write_adapter(daemon.home / f"{name}.gguf", model, is_zero=is_zero)
        create(daemon, name, f"FROM ./bert.gguf\nADAPTER ./{name}.gguf\n")
    create(daemon, "bert", "FROM ./bert.gguf\n")

    def vector(name: str) -> np.ndarray:
        answer = daemon.http.post("/api/embed", json={"model": name, "input": "why is the sky blue?"})
        return np.array(answer.raise_for_status().json()["embeddings"][0])

    assert np.abs(vector("bert") - vector("same")).max() < 1e-6
    assert np.abs(vector("bert") - vector("vectors")).max() > 0.01
