"""The composition root: builds the daemon from Settings, runs it, ends it.

    socket ─▶ store · fleet · scheduler ─▶ application ─▶ uvicorn on that socket
                                                              │ SIGTERM, SIGINT, idle
                                                              ▼
    new requests get 503 ─▶ running ones have the grace ─▶ they end with an error ─▶ runners are gone ─▶ exit 0

A second signal takes the grace away. Only this file knows uvicorn, the process's environment and its signals.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from localllm.config import Address, Settings
from localllm.errors import ConfigError, ShuttingDownError
from localllm.gguf import Header
from localllm.logs import set_up_logging
from localllm.placement.device_file import parse_devices
from localllm.placement.devices import Machine
from localllm.placement.learned import FILE as LEARNED_FILE
from localllm.placement.learned import Learned
from localllm.pulling import Pulled
from localllm.runner.inventory import Inventory
from localllm.runner.preflight import Preflight, look_at_machine
from localllm.scheduler.fleet import RunnerFleet, real_worker
from localllm.scheduler.loop import Scheduler
from localllm.scheduler.planner import Planner
from localllm.scheduler.state import Limits
from localllm.server.access import rules_from
from localllm.server.activity import Activity
from localllm.server.app import build_app
from localllm.server.connections import ConnectionLimits, Connections, raise_open_files
from localllm.server.listener import bound_address, is_exposed, open_listener
from localllm.server.pulls import Pulls
from localllm.server.responses_store import ResponseStore
from localllm.server.services import Clock, ModelScheduler, Services
from localllm.server.traces import traces_to
from localllm.store.bundled import bundled_dir, probe_model
from localllm.store.model import Model
from localllm.store.store import Store
from localllm.tls import server_context
from localllm.version import __version__

IDLE_CHECK_SECONDS = 5.0
LAST_WORDS_SECONDS = 2.0
# uvicorn wants a number; nobody waits for a year.
_FOR_EVER_SECONDS = 365 * 24 * 3600

logger = logging.getLogger(__name__)


def serve(
    settings: Settings,
    *,
    idle_exit: bool,
    on_ready: Callable[[Address], None] = lambda address: None,
    command_for: Callable[[Model], Sequence[str]] = real_worker,
) -> None:
    """Run the daemon until a signal ends it, or with `idle_exit` until it has had nothing to do for long enough.

    `on_ready` hears the address once requests are taken; `command_for` says which program a model's runner is, which a
    bench may replace. Raises ConfigError and DaemonError before anything starts.
    """
    set_up_logging(settings.log_level, settings.log_format)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    with open_listener(settings) as listener, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, listener, idle_exit, on_ready, command_for))


async def _serve(
    settings: Settings,
    listener: socket.socket,
    idle_exit: bool,
    on_ready: Callable[[Address], None],
    command_for: Callable[[Model], Sequence[str]],
) -> None:
    traces = traces_to(settings.otlp_endpoint) if settings.otlp_endpoint else None
    activity = Activity(time.monotonic)
    end = _End(asyncio.get_running_loop())
    with ThreadPoolExecutor(1, "store") as store_thread, end.on_signals():
        store = Store(settings.models_dir, bundled_dir(), registry_url=settings.registry)
        inventory = _build_inventory(settings)
        planner = _build_planner(settings, store, store_thread, inventory)
        scheduler = _build_scheduler(settings, planner, command_for)
        scheduler.start()
        services = replace(_build_services(settings, store, scheduler, planner, store_thread, activity), traces=traces)
        rules = rules_from(settings, socket.gethostname(), is_exposed=is_exposed(listener))
        server = _Server(server_config(build_app(services, rules), settings))
        serving = asyncio.create_task(server.serve([listener]))
        idle = asyncio.create_task(_wait_until_idle(settings, services, idle_exit))
        ending = asyncio.create_task(end.first.wait())
        address = bound_address(listener, settings.address)
        gc.freeze()  # what was imported stays: looking through it for garbage would hold up every stream for 0.1 s
        gc.set_threshold(10_000, 20, 20)  # a request makes hundreds of objects, and almost no circles of them
        logger.info("localllm %s serves %s", __version__, address.url)
        on_ready(address)
        await asyncio.wait({serving, idle, ending}, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        ending.cancel()
        await _drain(settings, activity, scheduler, end)
        server.should_exit = True
        await serving
        await inventory.close()
        if traces is not None:
            await asyncio.to_thread(traces.close)
    logger.info("localllm has ended")


def _build_inventory(settings: Settings) -> Inventory:
    engine = look_at_machine()
    return Inventory(engine.cpu.model, engine.identity, settings.state_dir, dict(os.environ))


def _build_planner(settings: Settings, store: Store, store_thread: ThreadPoolExecutor, inventory: Inventory) -> Planner:
    replaced = _described_machine(settings)

    async def look() -> Machine:
        return replaced or await inventory.machine()

    async def read_header(model: Model) -> Header:
        return await asyncio.get_running_loop().run_in_executor(store_thread, store.loaded_header, model)

    async def read_draft(model: Model) -> Header | None:
        return await asyncio.get_running_loop().run_in_executor(store_thread, store.draft_header, model)

    learned = Learned(settings.state_dir / LEARNED_FILE)
    return Planner(settings, look, read_header, learned, inventory.without_gpu, read_draft)


def _described_machine(settings: Settings) -> Machine | None:
    """The machine of LOCALLLM_DEVICES. Raises ConfigError."""
    if (file := settings.devices_file) is None:
        return None
    try:
        return parse_devices(file.read_bytes(), str(file))
    except OSError as error:
        raise ConfigError(f"LOCALLLM_DEVICES: {file} cannot be read: {error.strerror}") from error


def _build_scheduler(settings: Settings, planner: Planner, command_for: Callable[[Model], Sequence[str]]) -> Scheduler:
    # Runners get the daemon's environment: the engine reads CUDA_VISIBLE_DEVICES and its like from there.
    environment = dict(os.environ)
    preflight = Preflight(look_at_machine(), settings.state_dir, probe_model(), environment)
    limits = Limits(settings.max_loaded_models, settings.max_queue, settings.keep_alive_seconds)
    return Scheduler(limits, RunnerFleet(settings, environment, preflight, planner, command_for=command_for))


def _build_services(
    settings: Settings,
    store: Store,
    scheduler: ModelScheduler,
    planner: Planner,
    store_thread: ThreadPoolExecutor,
    activity: Activity,
) -> Services:
    async def register(name: str, pulled: Pulled) -> None:
        await asyncio.get_running_loop().run_in_executor(store_thread, store.register_pulled, name, pulled)

    async def check(name: str) -> None:
        await asyncio.get_running_loop().run_in_executor(store_thread, store.refuse_unwritable, name)

    return Services(
        settings=settings,
        store=store,
        scheduler=scheduler,
        planner=planner,
        store_thread=store_thread,
        clock=Clock(time.monotonic, time.time_ns),
        new_id=lambda: os.urandom(8).hex(),
        activity=activity,
        pulls=Pulls(register, check),
        responses=ResponseStore(settings.responses_keep_seconds, settings.responses_most_bytes),
        ping_seconds=settings.ping_seconds,
    )


async def _wait_until_idle(settings: Settings, services: Services, idle_exit: bool) -> None:
    """Returns after enough time without requests and without a loaded model; without `idle_exit`, never."""
    limit_seconds = settings.idle_exit_seconds if idle_exit else float("inf")
    while services.activity.quiet_seconds() < limit_seconds or services.scheduler.running():
        await asyncio.sleep(min(IDLE_CHECK_SECONDS, max(0.1, limit_seconds / 10)))
    logger.info("nothing to do for %.0f s", services.activity.quiet_seconds())


async def _drain(settings: Settings, activity: Activity, scheduler: Scheduler, end: _End) -> None:
    """No new requests; those that run get the grace, then an error; at the end no runner is left."""
    activity.close()
    if activity.running:
        logger.info("requests that have %g s to end: %d", settings.shutdown_grace_seconds, activity.running)
    hurry = asyncio.create_task(end.second.wait())
    hurry.add_done_callback(lambda task: None if task.cancelled() else activity.fail_all(ShuttingDownError()))
    await scheduler.shutdown(settings.shutdown_grace_seconds)
    hurry.cancel()
    if not await activity.wait_until_nothing_runs(LAST_WORDS_SECONDS):
        activity.fail_all(ShuttingDownError())
        await activity.wait_until_nothing_runs(LAST_WORDS_SECONDS)


class _End:
    """The signals that end the daemon, as events of its loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Listen to SIGINT and SIGTERM. Needs the main thread."""
        # signal.signal rather than the loop's add_signal_handler, which Windows does not have.
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._note, signal.Signals(number).name)

    def _note(self, name: str) -> None:
        logger.info("%s: ending", name)
        (self.second if self.first.is_set() else self.first).set()


class _Server(uvicorn.Server):
    """uvicorn without its own handling of signals, which would end runners before their requests."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves `app`: with our limits of connections, and TLS if there is a certificate."""
    limits = ConnectionLimits(
        connections=raise_open_files(settings.max_connections),
        head_seconds=settings.head_timeout_seconds,
        idle_seconds=settings.idle_connection_seconds,
    )
    config = uvicorn.Config(
        app,
        http=Connections(limits).protocol_factory(AutoHTTPProtocol),  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(min(settings.idle_connection_seconds, _FOR_EVER_SECONDS)),
        timeout_graceful_shutdown=int(LAST_WORDS_SECONDS),
    )
    if settings.tls_cert is not None:
        config.load()
        config.ssl = server_context(settings.tls_cert, settings.tls_key)
    return config


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    return uvicorn.Config(None, loop="auto", log_config=None).get_loop_factory()  # type: ignore[arg-type]
