"""The queue of the real daemon with the real model: one client floods it, others ask as people do."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from dataclasses import dataclass

import httpx
import pytest
from cli_process import run_cli
from daemon_process import Daemon, chat_body, lines_of, running_daemon, wait_for

FLOOD, OTHERS, EACH = 200, ("ann", "bob"), 12


@dataclass(frozen=True)
class Answer:
    client: str
    status: int
    request_id: str
    waited_seconds: float = 0.0
    served_seconds: float = 0.0
    tokens: int = 0


def body_of(client: str, number: int) -> dict:
    # No two prompts alike, so that a cache cannot make one request shorter than another.
    options = {"num_predict": 6, "temperature": 0}
    return {"model": "guide", "prompt": f"{client} {number}: hello", "stream": False, "options": options}


async def ask(http: httpx.AsyncClient, client: str, number: int) -> Answer:
    response = await http.post("/api/generate", json=body_of(client, number), headers={"x-localllm-client": client})
    said = response.json()
    if response.status_code != 200:
        return Answer(client, response.status_code, response.headers["x-request-id"])
    waited = said.get("queue_duration", 0) / 1e9
    served = said["total_duration"] / 1e9 - waited
    return Answer(client, 200, response.headers["x-request-id"], waited, served, said["eval_count"])


async def ask_like_a_person(http: httpx.AsyncClient, client: str) -> list[Answer]:
    answers = []
    for number in range(EACH):
        answers.append(await ask(http, client, number))
        await asyncio.sleep(0.05)
    return answers


async def flood_and_others(daemon: Daemon, flood_count: int) -> list[Answer]:
    limits = httpx.Limits(max_connections=flood_count + len(OTHERS) + 1)
    async with httpx.AsyncClient(base_url=daemon.url, timeout=110, trust_env=False, limits=limits) as http:
        # Nobody is served until many wait: a fast machine would be done before anybody else asks.
        (runner,) = daemon.runner_ids()
        os.kill(runner, signal.SIGSTOP)
        flood = [asyncio.create_task(ask(http, "flood", number)) for number in range(flood_count)]
        while len((await http.get("/api/ps")).json()["queue"]) < 20:
            await asyncio.sleep(0.01)
        os.kill(runner, signal.SIGCONT)
        people = await asyncio.gather(*(ask_like_a_person(http, client) for client in OTHERS))
        return [*await asyncio.gather(*flood), *(answer for answers in people for answer in answers)]


@pytest.mark.timeout(240)
def test_a_client_that_floods_delays_others_by_two_requests_at_most_and_nothing_is_lost(tmp_path):
    with running_daemon(tmp_path, LOCALLLM_NUM_PARALLEL="1", LOCALLLM_MAX_QUEUE="512") as daemon:
        daemon.chat("hi")
        answers = asyncio.run(flood_and_others(daemon, FLOOD))
        queue = daemon.http.get("/api/ps").json()["queue"]
    assert {200} == {answer.status for answer in answers}
    assert FLOOD + len(OTHERS) * EACH == len({answer.request_id for answer in answers})
    assert all(1 <= answer.tokens <= 6 for answer in answers)
    assert [] == queue
    longest = max(answer.served_seconds for answer in answers)
    waits = sorted(answer.waited_seconds for answer in answers if answer.client in OTHERS)
    of_flood = sorted(answer.waited_seconds for answer in answers if answer.client == "flood")
    figures = f"longest request {longest:.3f} s, others waited {waits[-1]:.3f} s, the flood {of_flood[-1]:.3f} s"
    assert waits[-1] <= 2 * longest, figures
    assert of_flood[-1] > 10 * waits[len(waits) // 2]  # there was something to be protected from


@pytest.mark.timeout(240)
def test_a_flood_beyond_the_limit_gets_refusals_with_figures_and_others_none(tmp_path):
    with running_daemon(tmp_path, LOCALLLM_NUM_PARALLEL="1", LOCALLLM_MAX_QUEUE="25") as daemon:
        daemon.chat("hi")
        answers = asyncio.run(flood_and_others(daemon, 100))
    assert {200} == {answer.status for answer in answers if answer.client != "flood"}
    of_flood = [answer.status for answer in answers if answer.client == "flood"]
    assert 100 == len(of_flood)
    assert {200, 503} == set(of_flood)
    # One has the place and 25 wait; each of the others takes the place of one that waits when it comes.
    assert of_flood.count(200) >= 1 + 25 - len(OTHERS)


@pytest.fixture
def held(tmp_path):
    """A daemon whose one place is taken for as long as the test needs: (daemon, let go)."""
    with running_daemon(tmp_path, LOCALLLM_NUM_PARALLEL="1") as daemon:
        daemon.chat("hi")
        with daemon.http.stream("POST", "/api/generate", json=daemon.endless()) as response:
            lines = lines_of(response)
            next(lines)
            (runner,) = daemon.runner_ids()
            os.kill(runner, signal.SIGSTOP)

            def let_go() -> None:
                os.kill(runner, signal.SIGCONT)
                response.close()

            yield daemon, let_go
            let_go()


def test_ps_shows_who_waits_in_the_order_of_service(held):
    daemon, let_go = held
    threads = []
    for number, (client, priority) in enumerate([("one", "batch"), ("one", "batch"), ("two", "interactive")], start=1):
        headers = {"x-localllm-client": client, "x-localllm-priority": priority}
        body = chat_body("hello", stream=False, options={"num_predict": 1})
        threads.append(
            threading.Thread(
                target=httpx.post,
                args=(f"{daemon.url}/api/chat",),
                kwargs={"json": body, "headers": headers, "timeout": 60},
            )
        )
        threads[-1].start()
        wait_for(lambda count=number: len(daemon.http.get("/api/ps").json()["queue"]) == count, 10)
    queue = daemon.http.get("/api/ps").json()["queue"]
    assert [(1, "interactive"), (2, "batch"), (3, "batch")] == [(one["position"], one["priority"]) for one in queue]
    assert ["two", "one", "one"] == [one["client"].split()[-1] for one in queue]
    assert all(one["eta_duration"] > 0 for one in queue)
    done = run_cli("ps", "--queue", environment=daemon.environment)
    lines = done.stdout.splitlines()
    assert ["MODEL", "POSITION", "CLIENT", "CLASS", "WAITED", "STARTS", "IN"] == lines[0].split()
    assert [["guide:latest", "1"], ["guide:latest", "2"], ["guide:latest", "3"]] == [
        row.split()[:2] for row in lines[1:]
    ]
    let_go()
    wait_for(lambda: daemon.http.get("/api/ps").json()["queue"] == [], 60)
    for thread in threads:
        thread.join(60)


def test_a_deadline_in_the_queue_is_kept_and_frees_the_place(held):
    daemon, _ = held
    body = chat_body("hello", stream=False)
    refused = daemon.http.post("/api/chat", json=body, headers={"x-request-timeout": "0.5"})
    assert (504, "request_timeout") == (refused.status_code, refused.json()["code"])
    assert "number 1 in the queue" in refused.json()["error"]
    assert [] == daemon.http.get("/api/ps").json()["queue"]
