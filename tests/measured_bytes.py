"""Asks tests/model/measure_child.py what models take, laid out so; and starts processes that stand in for GPUs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import msgspec

from localllm.placement.layout import BufferBytes, Layout
from localllm.placement.shape import ContextShape

CHILD = Path(__file__).parent / "model" / "measure_child.py"
CHILD_SECONDS = 110
Asked = tuple[Path, Layout, ContextShape]


class Answer(msgspec.Struct, frozen=True):
    """All buffers; `grown` is by how much the process did, of a model that was loaded."""

    buffers: tuple[BufferBytes, ...]
    grown: int = 0


def ask_child(what: str, questions: Sequence[Asked], ports: Sequence[int] = ()) -> list[Answer]:
    """An answer to each question, from one child; see there."""
    asked = [
        {"model": str(path), "layout": asdict(layout), "shape": asdict(shape)} for path, layout, shape in questions
    ]
    command = [sys.executable, str(CHILD), what, *map(str, ports)]
    done = subprocess.run(
        command, input=json.dumps(asked), capture_output=True, text=True, timeout=CHILD_SECONDS, check=False
    )
    assert 0 == done.returncode, done.stderr[-2000:]
    return msgspec.json.decode(done.stdout, type=list[Answer])


@contextmanager
def stand_in_gpus(count: int) -> Iterator[list[int]]:
    """Ports of so many processes that serve their CPU as a device of its own."""
    ports = [_free_port() for _ in range(count)]
    children = [
        subprocess.Popen(
            [sys.executable, str(CHILD), "serve", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for port in ports
    ]
    try:
        for port in ports:
            _wait_until_it_listens(port)
        yield ports
    finally:
        for child in children:
            child.kill()
            child.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_listens(port: int, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens at {port} after {seconds} s")
