"""scripts/bench: workloads, what each kind of server is sent, and how its lines are read."""

from __future__ import annotations

import json

import pytest
from bench.adapters import Event, LlamaServer, Localllm, OpenAI, Rule
from bench.load_client import Endpoint, run_workload
from bench.peer import flags_of_engine
from bench.workloads import MAKERS, Client, Turn, Workload, make_workload
from scripted_server import Reply, ScriptedServer

WORDS = [f" word{index}" for index in range(2000)]


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_seed_gives_the_same_texts_and_another_does_not(name: str) -> None:
    assert make_workload(name, WORDS, "1") == make_workload(name, WORDS, "1")
    assert make_workload(name, WORDS, "1") != make_workload(name, WORDS, "2")


def first_texts(name: str) -> list[str]:
    return [client.turns[0].text for client in make_workload(name, WORDS, "1").clients]


def test_unique_prompts_begin_with_other_words() -> None:
    assert 8 == len({" ".join(text.split()[:4]) for text in first_texts("unique")})


def test_shared_prompts_are_the_same_but_for_their_ends() -> None:
    texts = [text.split() for text in first_texts("shared")]
    assert 1 == len({tuple(words[:1400]) for words in texts})
    assert 8 == len({tuple(words[1400:]) for words in texts})
    assert {1420} == {len(words) for words in texts}


def test_sizes_shrink_together() -> None:
    small = make_workload("unique", WORDS, "1", 0.1)
    assert {(70, 6)} == {(turn.new_tokens, turn.output_tokens) for client in small.clients for turn in client.turns}


def test_pressure_needs_twice_the_pool() -> None:
    workload = make_workload("pressure", WORDS, "1")
    needed = sum(client.most_tokens for client in workload.clients)
    assert workload.pool_tokens is not None
    assert 2 == needed // workload.pool_tokens
    assert workload.most_tokens < workload.pool_tokens


def test_the_long_prompt_alone_waits_for_the_streams() -> None:
    clients = make_workload("long-prefill", WORDS, "1").clients
    assert [False, False, False, False, True] == [client.waits_for_streams for client in clients]


def test_history_is_one_prompt_or_messages_in_turns() -> None:
    history = [" a b", " c", " d"]
    assert " a b c d" == Localllm("m", Rule((7,))).body(history, 5)["prompt"]
    assert " a b c d" == LlamaServer(Rule((7,))).body(history, 5)["prompt"]
    messages = OpenAI("m").body(history, 5)["messages"]
    assert isinstance(messages, list)
    assert ["user", "assistant", "user"] == [message["role"] for message in messages]


def line(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n"


def test_our_lines_are_read_with_and_without_cached_tokens() -> None:
    adapter = Localllm("m", Rule())
    assert Event(text=" a") == adapter.read(b'{"response": " a", "done": false}')
    last = {"response": "", "done": True, "prompt_eval_count": 9, "eval_count": 3}
    assert Event("", 9, 0, 3) == adapter.read(json.dumps(last).encode())
    assert Event("", 9, 4, 3) == adapter.read(json.dumps(last | {"prompt_cached_count": 4}).encode())
    assert Event("", 9, 4, 3) == adapter.read(json.dumps(last | {"cached_tokens": 4}).encode())
    assert Event(error="no room") == adapter.read(b'{"error": "no room"}')


def test_lines_of_llama_server_are_read() -> None:
    adapter = LlamaServer(Rule())
    assert Event(text=" a") == adapter.read(line({"content": " a", "stop": False, "tokens_evaluated": 9}))
    timings = {"cache_n": 4, "prompt_n": 5, "predicted_n": 3}
    last = {"content": "", "stop": True, "tokens_evaluated": 9, "timings": timings}
    assert Event("", 9, 4, 3) == adapter.read(line(last))
    assert Event(error="too long") == adapter.read(line({"error": {"code": 400, "message": "too long"}}))
    assert Event(error="too long") == adapter.read(b'error: {"code": 400, "message": "too long"}\n')


def test_lines_of_an_openai_server_are_read() -> None:
    adapter = OpenAI("m")
    assert Event(text="a") == adapter.read(line({"choices": [{"delta": {"content": "a"}}]}))
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
    assert Event("", 9, 4, 3) == adapter.read(line({"choices": [], "usage": usage}))
    assert adapter.read(b"data: [DONE]\n") is None
    assert adapter.read(b": a comment\n") is None


def test_the_engine_flags_are_read_back() -> None:
    flags = "CFLAGS='-fno-dse -O2' CMAKE_ARGS='-DGGML_RPC=ON'"
    assert {"CFLAGS": "-fno-dse -O2", "CMAKE_ARGS": "-DGGML_RPC=ON"} == flags_of_engine(flags)


LINES = (b'{"response": " a"}\n', b'{"response": " b"}\n', b'{"done": true, "prompt_eval_count": 9, "eval_count": 2}\n')


def endpoint(server: ScriptedServer) -> Endpoint:
    host, _, port = server.address.partition(":")
    return Endpoint("ours", host, int(port), Localllm("m", Rule()))


def test_every_turn_sends_all_that_was_said_before() -> None:
    client = Client((Turn(" one", 1, 2), Turn(" two", 1, 2)))
    with ScriptedServer({"POST /api/generate": Reply(pieces=LINES)}) as server:
        run = run_workload(endpoint(server), Workload("chat", (client,)), 30)
        prompts = [body["prompt"] for body in server.bodies("POST /api/generate")]
    assert [" one", " one a b two"] == prompts
    assert [(2, 2, 9, None)] * 2 == [
        (len(answer.arrivals), answer.output_tokens, answer.prompt_tokens, answer.error) for answer in run.answers
    ]


def test_a_server_that_refuses_is_quoted_and_ends_its_client() -> None:
    client = Client((Turn(" one", 1, 2), Turn(" two", 1, 2)))
    with ScriptedServer({"POST /api/generate": Reply('{"error": "the queue is full"}', 503)}) as server:
        run = run_workload(endpoint(server), Workload("chat", (client,)), 30)
    assert 1 == len(run.answers)
    assert "the queue is full" in str(run.answers[0].error)


def test_the_long_prompt_is_sent_although_the_streams_failed() -> None:
    turn = (Turn(" one", 1, 2),)
    workload = Workload("long", (Client(turn), Client(turn, waits_for_streams=True)))
    with ScriptedServer({}) as server:
        run = run_workload(endpoint(server), workload, 30)
    assert 2 == len(run.answers)
