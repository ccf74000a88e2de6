"""Sends a workload to a server and writes down when each piece of each answer came.

A thread per client and plain sockets: on a machine that serves and asks with the same few cores, what the asking costs
goes off the figures. Lines are only stamped while they come and read afterwards. Every wait has an end.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.adapters import Adapter
from bench.workloads import Client, Turn, Workload

# The long prompt of a workload comes in when each other stream has had so many pieces.
STREAMING_LINES = 4


@dataclass(frozen=True)
class Endpoint:
    """A server that answers. `name` heads its column."""

    name: str
    host: str
    port: int
    adapter: Adapter
    headers: dict[str, str] = field(default_factory=dict)
    prefix: str = ""


@dataclass
class Answer:
    """One request's figures. Times are those of time.perf_counter; counts are None where the server tells none."""

    turn: Turn
    turn_index: int
    waited_for_streams: bool
    started: float
    arrivals: list[float] = field(default_factory=list)
    ended: float = 0.0
    text: str = ""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    error: str | None = None


@dataclass
class Round:
    """One run of a workload against one server."""

    answers: list[Answer]
    seconds: float


class Gate:
    """Lets one client in when the others stream; a client that ends before it did counts as streaming."""

    def __init__(self, others: int) -> None:
        self._missing = others
        self._condition = threading.Condition()

    def pass_one(self) -> None:
        """One more of the others streams."""
        with self._condition:
            self._missing -= 1
            self._condition.notify_all()

    def wait(self, seconds: float) -> None:
        """Until all stream, at most so long."""
        with self._condition:
            self._condition.wait_for(lambda: self._missing <= 0, seconds)


def _read_lines(endpoint: Endpoint, body: bytes, deadline: float, gate: Gate | None) -> list[tuple[float, bytes]]:
    """The stamped lines of one answer. Raises OSError, HTTPException, and TimeoutError at the deadline."""
    connection = http.client.HTTPConnection(
        endpoint.host, endpoint.port, timeout=max(0.1, deadline - time.perf_counter())
    )
    lines: list[tuple[float, bytes]] = []
    try:
        headers = {"content-type": "application/json", **endpoint.headers}
        connection.request("POST", endpoint.prefix + endpoint.adapter.path, body, headers)
        response = connection.getresponse()
        if response.status != 200:
            raise http.client.HTTPException(f"{response.status}: {response.read(2000).decode(errors='replace')}")
        while line := response.readline():
            now = time.perf_counter()
            if line.strip():
                lines.append((now, line))
                if gate is not None and len(lines) == STREAMING_LINES:
                    gate.pass_one()
            if now > deadline:
                raise TimeoutError("the answer did not end in time")
    finally:
        connection.close()
        if gate is not None and len(lines) < STREAMING_LINES:
            gate.pass_one()
    return lines


def _take(answer: Answer, adapter: Adapter, lines: list[tuple[float, bytes]]) -> None:
    """Read the stamped lines into the answer."""
    texts = []
    for stamp, line in lines:
        event = adapter.read(line)
        if event is None:
            continue
        if event.text:
            texts.append(event.text)
            answer.arrivals.append(stamp)
        answer.error = event.error or answer.error
        for name in ("prompt_tokens", "cached_tokens", "output_tokens"):
            value = getattr(event, name)
            if value is not None:
                setattr(answer, name, value)
    answer.text = "".join(texts)
    if answer.error is None and not texts:
        answer.error = "the answer has no text"


def _ask(endpoint: Endpoint, history: Sequence[str], answer: Answer, deadline: float, gate: Gate | None) -> None:
    body = json.dumps(endpoint.adapter.body(history, answer.turn.output_tokens)).encode()
    answer.started = time.perf_counter()
    try:
        lines = _read_lines(endpoint, body, deadline, gate)
    except (OSError, http.client.HTTPException) as error:
        answer.error = f"{type(error).__name__}: {error}"
        lines = []
    answer.ended = time.perf_counter()
    if lines:
        _take(answer, endpoint.adapter, lines)


def _talk(endpoint: Endpoint, client: Client, began: float, deadline: float, gate: Gate | None) -> list[Answer]:
    """All turns of one client; it stops at the first that fails."""
    if client.waits_for_streams and gate is not None:
        gate.wait(deadline - time.perf_counter())
    time.sleep(max(0.0, began + client.start_seconds - time.perf_counter()))
    own_gate = None if client.waits_for_streams else gate
    history: list[str] = []
    answers = []
    for index, turn in enumerate(client.turns):
        answer = Answer(turn, index, client.waits_for_streams, time.perf_counter())
        history.append(turn.text)
        _ask(endpoint, history, answer, deadline, own_gate if index == 0 else None)
        answers.append(answer)
        if answer.error is not None:
            break
        history.append(answer.text)
    return answers


def run_workload(endpoint: Endpoint, workload: Workload, most_seconds: float) -> Round:
    """Run all clients at once; ends after `most_seconds` at the latest, then with errors in place of answers."""
    streams = sum(not client.waits_for_streams for client in workload.clients)
    gate = Gate(streams) if streams < len(workload.clients) else None
    found: list[list[Answer]] = [[] for _ in workload.clients]
    began = time.perf_counter()
    deadline = began + most_seconds

    def talk(index: int) -> None:
        found[index] = _talk(endpoint, workload.clients[index], began, deadline, gate)

    threads = [threading.Thread(target=talk, args=(index,), daemon=True) for index in range(len(workload.clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = [answer for each in found for answer in each]
    return Round(answers, max((answer.ended for answer in answers), default=began) - began)
