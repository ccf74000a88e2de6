"""The application on a real uvicorn and a real port, in a thread of the test's process.

    with live_server() as server:
        httpx.get(server.url + "/api/tags")

The scheduler and the store are working fakes (fake_scheduler), unless a test brings a real store; everything above them
is real.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvicorn
from fake_scheduler import FakePlanner, FakeScheduler, FakeStore

from localllm.config import load_settings
from localllm.creating import ConverterRelease
from localllm.server.access import rules_from
from localllm.server.activity import Activity
from localllm.server.app import build_app
from localllm.server.daemon import server_config
from localllm.server.pulls import Pulls
from localllm.server.responses_store import ResponseStore
from localllm.server.services import Clock, Services
from localllm.store.converter import RELEASE

MACHINE_NAME = "Workbench"
NO_CONFIG = Path("/nowhere/config.toml")  # a person's own API keys are none of the tests'


@dataclass(frozen=True)
class LiveServer:
    url: str
    port: int
    scheduler: FakeScheduler
    store: Any
    activity: Activity
    uvicorn: uvicorn.Server

    def call(self, work: Callable[..., object], *arguments: object) -> None:
        """Have the server's event loop call something soon."""
        self.uvicorn.servers[0].get_loop().call_soon_threadsafe(work, *arguments)

    def ask(self, request: bytes) -> bytes:
        """Send raw bytes, return everything the server answers until it closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@contextmanager
def live_server(
    early_headers_seconds: float = 10.0,
    store: Any = None,
    ping_seconds: float = 10.0,
    converter: ConverterRelease = RELEASE,
    **changes: Any,
) -> Iterator[LiveServer]:
    """A server whose settings are the defaults but for `changes`; `store` takes the place of the fake one."""
    settings = replace(load_settings({}), **{"config_file": NO_CONFIG, **changes})
    store = store or FakeStore()
    scheduler, activity = FakeScheduler(), Activity(time.monotonic)
    ids = itertools.count(1)
    with ThreadPoolExecutor(1) as store_thread, socket.create_server(("127.0.0.1", 0)) as listener:
        services = Services(
            settings=settings,
            store=store,
            scheduler=scheduler,
            planner=FakePlanner(),
            store_thread=store_thread,
            clock=Clock(time.monotonic, time.time_ns),
            new_id=lambda: f"id{next(ids)}",
            activity=activity,
            pulls=Pulls(store.register if isinstance(store, FakeStore) else FakeStore().register),
            responses=ResponseStore(settings.responses_keep_seconds, settings.responses_most_bytes),
            early_headers_seconds=early_headers_seconds,
            ping_seconds=ping_seconds,
            converter=converter,
        )
        app = build_app(services, rules_from(settings, MACHINE_NAME))
        server = uvicorn.Server(server_config(app, settings))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            wait_until(lambda: server.started)
            port = listener.getsockname()[1]
            yield LiveServer(f"http://127.0.0.1:{port}", port, scheduler, store, activity, server)
        finally:
            server.should_exit = True
            thread.join()


def wait_until(is_true: Callable[[], object], seconds: float = 10.0) -> None:
    """Look until it is so; fails when it is not in time."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
