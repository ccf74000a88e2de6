"""The real daemon with the real model, and real signals: what a death costs, and what it leaves."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest
from daemon_process import (
    chat_body,
    children_of,
    command_of,
    end,
    is_alive,
    lines_of,
    running_daemon,
    wait_for,
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with running_daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


def active_requests(daemon):
    return [(model["active"], model["waiting"]) for model in daemon.http.get("/api/ps").json()["models"]]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_runner_that_dies_ends_its_streams_with_an_error_and_the_next_request_loads_anew(daemon, number):
    with daemon.http.stream("POST", "/api/generate", json=daemon.endless()) as response:
        lines = lines_of(response)
        assert next(lines)["response"] != ""
        (runner,) = daemon.runner_ids()
        os.kill(runner, number)
        last = list(lines)[-1]
    assert number.name in last["error"]
    assert "pull" in daemon.chat("How do I pull a model?")["message"]["content"]
    assert [runner] != daemon.runner_ids()


def test_a_runner_that_dies_ends_an_openai_stream_with_an_error_event_and_done(daemon):
    body = {"model": "guide", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    with daemon.http.stream("POST", "/v1/chat/completions", json={**body, "logit_bias": daemon.no_end()}) as response:
        events = response.iter_lines()
        next(events)
        (runner,) = daemon.runner_ids()
        os.kill(runner, signal.SIGKILL)
        rest = [line for line in events if line]
    assert "SIGKILL" in json.loads(rest[-2].removeprefix("data: "))["error"]["message"]
    assert "data: [DONE]" == rest[-1]


def test_a_client_that_leaves_frees_its_sequence(daemon):
    daemon.chat("hi")
    with daemon.http.stream("POST", "/api/generate", json=daemon.endless()) as response:
        lines = lines_of(response)  # held: a generator that is dropped closes its connection
        next(lines)
        assert [(1, 0)] == active_requests(daemon)
    wait_for(lambda: active_requests(daemon) == [(0, 0)], 5)


def test_other_requests_go_on_while_one_is_cancelled(daemon):
    texts = []
    thread = threading.Thread(target=lambda: texts.append(daemon.chat("What is localllm?")["message"]["content"]))
    with daemon.http.stream("POST", "/api/generate", json=daemon.endless()) as response:
        lines = lines_of(response)
        next(lines)
        thread.start()
    thread.join(30)
    assert [daemon.chat("What is localllm?")["message"]["content"]] == texts


def test_eight_streams_at_once_give_the_text_of_the_same_requests_one_after_another(daemon):
    questions = [
        "How do I pull a model?",
        "What is localllm?",
        "Where are models stored?",
        "How do I stop a model?",
        "What does keep-alive mean?",
        "hello",
        "How do I list my models?",
        "What is the capital of France?",
    ]

    def ask(question):
        with httpx.stream("POST", f"{daemon.url}/api/chat", json=chat_body(question), timeout=60) as response:
            return "".join(line["message"]["content"] for line in lines_of(response))

    alone = [ask(question) for question in questions]
    together = [""] * len(questions)

    def answer(index):
        together[index] = ask(questions[index])

    threads = [threading.Thread(target=answer, args=(index,)) for index in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert alone == together
    assert all(alone)


def test_no_runner_outlives_a_killed_daemon(tmp_path):
    with running_daemon(tmp_path) as daemon:
        daemon.chat("hi")
        (runner,) = daemon.runner_ids()
        daemon.process.kill()
        daemon.process.wait()
        wait_for(lambda: not is_alive(runner), 2)
        assert not is_alive(runner)


def test_sigterm_lets_a_running_answer_end_and_takes_no_new_ones(tmp_path):
    with running_daemon(tmp_path, LOCALLLM_SHUTDOWN_GRACE="30s") as daemon:
        daemon.chat("hi")
        body = {**daemon.endless()}
        body["options"] = {**body["options"], "num_predict": 400}
        with daemon.http.stream("POST", "/api/generate", json=body) as response:
            lines = lines_of(response)
            next(lines)
            daemon.process.send_signal(signal.SIGTERM)
            refused = wait_for(lambda: refusal(daemon), 10)
            last = list(lines)[-1]
        assert (503, True) == refused
        assert (True, "length", 400) == (last["done"], last["done_reason"], last["eval_count"])
        assert 0 == daemon.process.wait(10)


def refusal(daemon):
    """Status of a new chat once it is refused, and whether it says to come back; None while it is still served."""
    try:
        response = httpx.post(f"{daemon.url}/api/chat", json=chat_body("hi", stream=False), trust_env=False, timeout=30)
    except httpx.TransportError:
        return None
    return (response.status_code, "shutting down" in response.text) if response.status_code != 200 else None


def test_an_answer_longer_than_the_grace_ends_with_an_error(tmp_path):
    with running_daemon(tmp_path, LOCALLLM_SHUTDOWN_GRACE="0.5s") as daemon:
        daemon.chat("hi")
        (runner,) = daemon.runner_ids()
        slow = {**daemon.endless()}
        with daemon.http.stream("POST", "/api/generate", json=slow) as response:
            lines = lines_of(response)
            next(lines)
            os.kill(runner, signal.SIGSTOP)  # an answer that would take for ever
            started = time.monotonic()
            daemon.process.send_signal(signal.SIGTERM)
            last = list(lines)[-1]
        assert "the server shut down while the request ran" == last["error"]
        assert time.monotonic() - started < 15
        assert 0 == daemon.process.wait(15)
        assert not is_alive(runner)


def test_a_model_is_unloaded_when_its_keep_alive_has_passed(daemon):
    daemon.chat("hi", keep_alive="100ms")
    wait_for(lambda: daemon.http.get("/api/ps").json()["models"] == [], 10)
    assert [] == daemon.runner_ids()


def test_an_empty_conversation_loads_and_a_keep_alive_of_zero_unloads(daemon):
    load = daemon.http.post("/api/chat", json={"model": "guide", "messages": []}).json()
    assert (True, "load") == (load["done"], load["done_reason"])
    assert ["guide:latest"] == [model["name"] for model in daemon.http.get("/api/ps").json()["models"]]
    unload = daemon.http.post("/api/generate", json={"model": "guide", "keep_alive": 0}).json()
    assert (True, "unload") == (unload["done"], unload["done_reason"])
    wait_for(lambda: daemon.runner_ids() == [], 10)


def test_a_full_queue_says_how_many_wait_and_when_to_come_back(tmp_path):
    with running_daemon(tmp_path, LOCALLLM_NUM_PARALLEL="1", LOCALLLM_MAX_QUEUE="1") as daemon:
        daemon.chat("hi")
        with daemon.http.stream("POST", "/api/generate", json=daemon.endless()) as first:
            lines = lines_of(first)
            next(lines)
            (runner,) = daemon.runner_ids()
            os.kill(runner, signal.SIGSTOP)  # the first answer lasts as long as the test needs
            waiting = threading.Thread(target=daemon.chat, args=("hello",))
            waiting.start()
            wait_for(lambda: active_requests(daemon) == [(1, 1)], 10)
            refused = daemon.http.post("/api/chat", json=chat_body("hi"))
            os.kill(runner, signal.SIGCONT)
        waiting.join(30)
    assert 503 == refused.status_code
    assert int(refused.headers["retry-after"]) >= 1
    assert "1 requests wait for 'guide:latest' and the limit is 1" in refused.json()["error"]


def test_the_daemon_itself_holds_no_engine(daemon):
    daemon.chat("hi")
    maps = Path(f"/proc/{daemon.process.pid}/maps").read_text(encoding="utf-8")
    assert [] == [name for name in ("libllama", "libggml", "numpy") if name in maps]
    assert any("localllm.runner.worker" in command_of(child) for child in children_of(daemon.process.pid))


def test_ending_a_daemon_twice_is_no_error(tmp_path):
    with running_daemon(tmp_path) as daemon:
        end(daemon.process)
        assert 0 == daemon.process.returncode
