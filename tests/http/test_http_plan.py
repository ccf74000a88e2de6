"""POST /api/plan over the fake store: bodies, who may have a model looked up that is not here, and what is said."""

from __future__ import annotations

import httpx
import pytest
from fake_scheduler import FakeStore
from live_server import live_server
from real_shapes import SHAPES


class Shapes(FakeStore):
    """Its models have the header of an 8 B one."""

    def header(self, model):
        return SHAPES["llama3-8b"].header("Q4_K_M")


@pytest.fixture(scope="module")
def server():
    with live_server(store=Shapes()) as running:
        yield running


def ask(server, headers=None, **body) -> httpx.Response:
    return httpx.post(f"{server.url}/api/plan", json={"model": "guide", **body}, headers=headers, timeout=20)


def test_a_plan_tells_place_bytes_flags_speed_the_machine_and_what_else_could_be_done(server):
    told = ask(server).json()
    plan = told["plan"]
    assert ("guide:latest", True, "gpu", 33, 33) == (
        told["model"], told["is_here"], plan["tier"], plan["gpu_layers"], plan["layers"],
    )  # fmt: skip
    assert plan["size"] == sum(share["total"] for share in plan["devices"])
    assert plan["size_vram"] == plan["devices"][0]["total"] <= plan["devices"][0]["budget"]
    assert ["CUDA0", "CPU"] == [device["device"] for device in told["machine"]]
    assert {"--n-gpu-layers 33", "--device CUDA0"} <= set(plan["flags"])
    assert plan["speed"]["decode_tokens_per_second"] > 1
    assert ["Q3_K_M", "Q5_K_M", "keys, values q8_0", "CPU alone"] == [one["label"] for one in told["alternatives"]]


def test_what_is_asked_holds_and_what_does_not_fit_is_told_with_what_is_missing(server):
    told = ask(server, options={"num_gpu": 10}, parameters={"num_parallel": 2, "cache_type_k": "q8_0"}).json()["plan"]
    assert (10, 2, "q8_0") == (told["gpu_layers"], told["context"]["parallel"], told["context"]["cache_type_k"])
    small = {"host": {"total": "3GB"}}
    refused = ask(server, devices=small).json()
    assert (None, True) == (refused["plan"], refused["missing"] > 10**9)
    assert refused["error"].startswith("the model does not fit: ")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"model": ""}, "model is required"),
        ({"options": {"num_gpx": 1}}, "unknown option 'num_gpx'"),
        ({"options": {"num_gpu": "many"}}, 'option "num_gpu" must be of type integer'),
        ({"parameters": {"split_mode": "row"}}, 'option "split_mode" row is not supported'),
        ({"parameters": {"warp": 1}}, "unknown parameter 'warp'"),
        ({"options": {"main_gpu": 4}}, "main_gpu 4: there is one GPU, counted from 0 (CUDA0)"),
        ({"parameters": {"override_tensor": "output=CUDA3"}}, "the devices are CPU, CUDA0"),
        ({"devices": {"host": {}}}, "missing required field `total`"),
    ],
)
def test_a_body_that_cannot_be_answered_says_why(server, body, says):
    answer = ask(server, **body)
    assert 400 == answer.status_code
    assert says in answer.json()["error"]


def test_a_model_that_is_not_here_is_looked_up_only_for_those_who_may_pull_it(server):
    answer = ask(server, {"Host": "localhost", "X-Forwarded-For": "203.0.113.7"}, model="hf.co/owner/away")
    assert 404 == answer.status_code
    assert "hf.co/owner/away" in answer.json()["error"]


def test_no_field_of_a_plan_is_lost_on_the_way(server):
    plan = ask(server).json()["plan"]
    names = {"tier", "reason", "fallback", "notes", "gpu_layers", "layers", "context", "size", "size_vram", "devices"}
    assert {*names, "flags", "speed"} == set(plan)
    share = plan["devices"][0]
    assert share["total"] == sum(share[name] for name in ("weights", "cache", "compute", "overhead"))
